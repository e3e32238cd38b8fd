#include "memory.h"

#include <bit>
#include <cstring>
#include <sstream>

namespace palquant {

namespace {

constexpr unsigned kIncrement = 1;  // AxBURST
constexpr unsigned kOkay = 0, kSlaveError = 2, kDecodeError = 3;  // xRESP
constexpr size_t kMaxBeats = 256;

std::string hex(uint64_t value) {
    std::ostringstream text;
    text << "0x" << std::hex << value;
    return text.str();
}

}  // namespace

AxiMemory::AxiMemory(const Config& config)
    : config_(config), bytes_(config.size), choice_(config.seed ^ 0xc0ffee) {
    // Whatever the program does not write, it must not rely on.
    Random poison(config.seed);
    for (size_t i = 0; i < bytes_.size(); i += sizeof(uint64_t)) {
        const uint64_t value = poison.next();
        std::memcpy(&bytes_[i], &value, std::min(sizeof value, bytes_.size() - i));
    }
    for (unsigned channel = 0; channel < kChannels; ++channel)
        random_.emplace_back(config.seed * kChannels + channel + 1);
}

uint8_t* AxiMemory::at(uint64_t address, uint64_t length) {
    if (address < config_.base || length > config_.size ||
        address - config_.base > config_.size - length)
        throw std::out_of_range(std::to_string(length) + " bytes at " + hex(address) +
                                " are outside the memory");
    return bytes_.data() + (address - config_.base);
}

size_t AxiMemory::outstanding() const {
    return reads_.size() + write_requests_.size() + !write_data_.empty() + write_bursts_.size() +
           writes_.size();
}

void AxiMemory::violation(const std::string& text) const {
    throw ProtocolError("AXI4 protocol, cycle " + std::to_string(cycle_) + ": " + text);
}

bool AxiMemory::inside(uint64_t address) const {
    return address >= config_.base && address - config_.base < config_.size &&
           config_.size - (address - config_.base) >= config_.bus_bytes;
}

void AxiMemory::check_stable(const MasterSignals& in) const {
    const char* const text = " changed or was withdrawn before it was accepted";
    if (last_.ar.valid && !last_out_.arready && in.ar != last_.ar)
        violation(std::string("the read address") + text);
    if (last_.aw.valid && !last_out_.awready && in.aw != last_.aw)
        violation(std::string("the write address") + text);
    if (last_.w.valid && !last_out_.wready && in.w != last_.w)
        violation(std::string("write data") + text);
}

void AxiMemory::check_request(Channel channel, const MasterSignals::Address& request) const {
    const std::string where =
        std::string(kChannelNames[channel]) + " burst at " + hex(request.address) + ": ";
    const uint64_t bytes = (request.length + 1) * uint64_t{config_.bus_bytes};
    if (request.burst != kIncrement) violation(where + "burst type is not INCR");
    if (request.size != static_cast<unsigned>(std::countr_zero(config_.bus_bytes)))
        violation(where + "a beat is not as wide as the bus");
    if (request.address % config_.bus_bytes != 0) violation(where + "address is not aligned");
    if (request.address / kBoundary != (request.address + bytes - 1) / kBoundary)
        violation(where + std::to_string(request.length + 1) + " beats cross a 4 KiB boundary");
}

bool AxiMemory::moves(Channel channel) {
    if (config_.mute[channel] && handshakes_[channel] >= *config_.mute[channel]) return false;
    return !random_[channel].chance(config_.stall);
}

void AxiMemory::clock(const MasterSignals& in) {
    check_stable(in);
    last_ = in;
    last_out_ = out_;

    if (in.ar.valid && out_.arready) {
        check_request(kAR, in.ar);
        count(kAR);
        Read read{in.ar, cycle_ + config_.latency, 0, {}};
        const uint64_t bytes = (in.ar.length + 1) * uint64_t{config_.bus_bytes};
        if (choice_.next() & 1 && inside(in.ar.address) &&
            inside(in.ar.address + bytes - config_.bus_bytes)) {
            const uint8_t* data = at(in.ar.address, bytes);
            read.early.assign(data, data + bytes);
        }
        reads_.push_back(std::move(read));
        ++traffic_.read_bursts;
    }
    if (out_.rvalid && in.rready) {
        count(kR);
        ++traffic_.read_beats;
        Read& read = reads_[presented_];
        if (read.beat++ == read.request.length)
            reads_.erase(reads_.begin() + static_cast<std::ptrdiff_t>(presented_));
        out_.rvalid = false;
    }
    // The response before new data: a write becomes visible exactly when its response is taken.
    if (out_.bvalid && in.bready) {
        count(kB);
        apply(writes_.front());
        writes_.pop_front();
        out_.bvalid = false;
    }
    if (in.aw.valid && out_.awready) {
        check_request(kAW, in.aw);
        count(kAW);
        write_requests_.push_back(in.aw);
        ++traffic_.write_bursts;
    }
    if (in.w.valid && out_.wready) {
        count(kW);
        ++traffic_.write_beats;
        accept_data(in.w);
    }
    match_writes();

    ++cycle_;
    drive_read();
    drive_response();
    out_.arready = moves(kAR);
    out_.awready = moves(kAW);
    out_.wready = moves(kW);
}

void AxiMemory::reset(const MasterSignals& in, bool effective) {
    if (effective && (in.ar.valid || in.aw.valid || in.w.valid))
        violation("a VALID is high during reset");
    reads_.clear();
    write_requests_.clear();
    write_data_.clear();
    write_bursts_.clear();
    writes_.clear();
    out_ = {};
    last_ = {};
    last_out_ = {};
    ++cycle_;
}

void AxiMemory::accept_data(const MasterSignals::Data& data) {
    write_data_.push_back(data);
    if (data.last) {
        write_bursts_.push_back(std::move(write_data_));
        write_data_.clear();
    } else if (write_data_.size() == kMaxBeats) {
        violation("256 beats of write data without WLAST");
    }
}

void AxiMemory::match_writes() {
    while (!write_requests_.empty() && !write_bursts_.empty()) {
        const MasterSignals::Address request = write_requests_.front();
        std::vector<MasterSignals::Data> beats = std::move(write_bursts_.front());
        write_requests_.pop_front();
        write_bursts_.pop_front();
        if (beats.size() != request.length + 1)
            violation("AW burst at " + hex(request.address) + ": WLAST came with beat " +
                      std::to_string(beats.size()) + " of " + std::to_string(request.length + 1));
        unsigned response = kOkay;
        for (size_t beat = 0; beat < beats.size(); ++beat) {
            const uint64_t address = request.address + beat * config_.bus_bytes;
            if (!inside(address)) response = kDecodeError;
            if (config_.write_error && *config_.write_error / config_.bus_bytes ==
                                           address / config_.bus_bytes && response == kOkay)
                response = kSlaveError;
        }
        writes_.push_back({request, cycle_ + config_.latency, std::move(beats), response});
    }
    // Data that runs past a known burst is wrong already, even if WLAST never comes.
    if (!write_requests_.empty() && write_data_.size() > write_requests_.front().length)
        violation("AW burst at " + hex(write_requests_.front().address) + ": no WLAST with beat " +
                  std::to_string(write_requests_.front().length + 1));
}

void AxiMemory::apply(const Write& write) {
    if (write.response != kOkay) return;
    uint8_t* target =
        at(write.request.address, write.beats.size() * uint64_t{config_.bus_bytes});
    for (const MasterSignals::Data& beat : write.beats) {
        for (unsigned i = 0; i < config_.bus_bytes; ++i)
            if (beat.strobe >> i & 1) target[i] = beat.bytes[i];
        target += config_.bus_bytes;
    }
}

void AxiMemory::drive_read() {
    if (out_.rvalid || reads_.empty()) return;  // what is valid stays until it is taken
    const std::optional<size_t> choice = choose_read();
    if (!choice || !moves(kR)) return;
    presented_ = *choice;
    present_beat(reads_[presented_]);
}

std::optional<size_t> AxiMemory::choose_read() {
    if (!config_.interleave)
        return cycle_ < reads_.front().ready ? std::nullopt : std::optional<size_t>(0);
    // The oldest burst of each identifier is a candidate; one of those is drawn.
    std::optional<size_t> choice;
    uint64_t seen = 0;
    unsigned candidates = 0;
    for (size_t i = 0; i < reads_.size() && cycle_ >= reads_[i].ready; ++i) {
        const uint64_t id = uint64_t{1} << (reads_[i].request.id % 64);
        if (seen & id) continue;
        seen |= id;
        if (choice_.next() % ++candidates == 0) choice = i;
    }
    return choice;
}

void AxiMemory::present_beat(const Read& read) {
    const uint64_t address = read.request.address + read.beat * uint64_t{config_.bus_bytes};
    out_.rvalid = true;
    out_.rlast = read.beat == read.request.length;
    out_.rid = read.request.id;
    out_.rresp = kOkay;
    if (!inside(address)) {
        out_.rresp = kDecodeError;
    } else if (config_.read_error &&
               *config_.read_error / config_.bus_bytes == address / config_.bus_bytes) {
        out_.rresp = kSlaveError;
    }
    if (out_.rresp != kOkay) {
        ++traffic_.error_responses;
        const uint64_t garbage = choice_.next();
        for (unsigned i = 0; i < config_.bus_bytes; ++i)
            out_.rdata[i] = static_cast<uint8_t>(garbage >> (i % sizeof garbage * 8));
    } else {
        const uint8_t* source = read.early.empty()
                                    ? at(address, config_.bus_bytes)
                                    : read.early.data() + read.beat * config_.bus_bytes;
        std::memcpy(out_.rdata.data(), source, config_.bus_bytes);
    }
}

void AxiMemory::drive_response() {
    if (out_.bvalid || writes_.empty()) return;
    const Write& write = writes_.front();
    if (cycle_ < write.ready || !moves(kB)) return;
    out_.bvalid = true;
    out_.bid = write.request.id;
    out_.bresp = write.response;
    if (write.response != kOkay) ++traffic_.error_responses;
}

}  // namespace palquant
