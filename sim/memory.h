// An AXI4 memory as a bus sees it: latency, stalls, errors, and a check of every rule that a
// master must keep. It knows nothing of Verilator; the driver hands it the pins of each cycle.
//
// Two properties are there to expose missing synchronisation:
// - a write becomes visible when its response is taken, not when its data arrives;
// - a read burst takes its data either when its address is accepted or beat by beat as it is
//   delivered, chosen at random for each burst; both are legal, so a result must not depend on it.
// Read data of one identifier comes in order; data of different identifiers may be interleaved.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace palquant {

constexpr unsigned kMaxBusBytes = 32;
constexpr uint64_t kBoundary = 4096;  // no burst crosses a multiple of it (AXI4, A3.4.1)

/// A rule of AXI4 that the master broke; the message says which, where and in which cycle.
class ProtocolError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

/// SplitMix64: small, fast, and the same on every machine.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t next() {
        uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        return z ^ (z >> 31);
    }
    /// True with the given probability.
    bool chance(double probability) {
        return probability > 0 && static_cast<double>(next() >> 11) * 0x1p-53 < probability;
    }

  private:
    uint64_t state_;
};

enum Channel : unsigned { kAR, kR, kAW, kW, kB, kChannels };
constexpr std::array<const char*, kChannels> kChannelNames = {"AR", "R", "AW", "W", "B"};

/// What the master drives in one cycle.
struct MasterSignals {
    struct Address {
        bool valid = false;
        uint64_t address = 0;
        unsigned length = 0;  // beats - 1
        unsigned size = 0;    // log2 of the bytes of a beat
        unsigned burst = 0;
        unsigned id = 0;
        bool operator==(const Address&) const = default;
    };
    Address ar, aw;
    bool rready = false, bready = false;
    struct Data {
        bool valid = false, last = false;
        uint32_t strobe = 0;
        std::array<uint8_t, kMaxBusBytes> bytes{};
        bool operator==(const Data&) const = default;
    };
    Data w;
};

/// What the memory drives in one cycle.
struct MemorySignals {
    bool arready = false, awready = false, wready = false;
    bool rvalid = false, rlast = false;
    bool bvalid = false;
    unsigned rid = 0, rresp = 0, bid = 0, bresp = 0;
    std::array<uint8_t, kMaxBusBytes> rdata{};
};

class AxiMemory {
  public:
    struct Config {
        unsigned bus_bytes = 8;
        uint64_t base = 0;             // bus address of the first byte
        uint64_t size = 0;             // bytes; accesses beyond are answered DECERR
        uint64_t seed = 0;             // poison, stalls, and when reads take their data
        unsigned latency = 1;          // cycles from address (or last data) to response, >= 1
        double stall = 0;              // probability of a stall on each channel, each cycle
        bool interleave = false;       // mix read data of different identifiers, at random
        std::optional<uint64_t> read_error, write_error;  // byte address answered SLVERR
        // Handshakes after which a channel never moves again.
        std::array<std::optional<uint64_t>, kChannels> mute{};
    };
    struct Traffic {
        uint64_t read_bursts = 0, read_beats = 0, write_bursts = 0, write_beats = 0;
        uint64_t error_responses = 0;
    };

    explicit AxiMemory(const Config& config);

    /// The signals that the memory drives until the next clock edge.
    const MemorySignals& signals() const { return out_; }
    /// One rising clock edge; `in` is what the master drove before it, while signals() was driven.
    void clock(const MasterSignals& in);
    /// One rising clock edge in reset: forgets all transactions, keeps the contents. `effective`:
    /// the reset has reached the master's outputs.
    void reset(const MasterSignals& in, bool effective);
    /// Transactions that are not complete: 0 whenever the master claims to be idle.
    size_t outstanding() const;
    const Traffic& traffic() const { return traffic_; }
    /// Backdoor: `length` bytes at bus address `address`; throws std::out_of_range.
    uint8_t* at(uint64_t address, uint64_t length);

  private:
    struct Read {
        MasterSignals::Address request;
        uint64_t ready;  // first cycle in which data may be valid
        unsigned beat = 0;
        std::vector<uint8_t> early;  // the data, where it was taken at once
    };
    struct Write {
        MasterSignals::Address request;
        uint64_t ready;
        std::vector<MasterSignals::Data> beats;
        unsigned response;
    };

    [[noreturn]] void violation(const std::string& text) const;
    void check_stable(const MasterSignals& in) const;
    void check_request(Channel channel, const MasterSignals::Address& request) const;
    bool inside(uint64_t address) const;
    void accept_data(const MasterSignals::Data& data);
    void match_writes();
    void apply(const Write& write);
    void drive_read();
    std::optional<size_t> choose_read();
    void present_beat(const Read& read);
    void drive_response();
    bool moves(Channel channel);
    void count(Channel channel) { ++handshakes_[channel]; }

    const Config config_;
    std::vector<uint8_t> bytes_;
    MemorySignals out_;
    MasterSignals last_;  // what the master drove in the previous cycle, while ...
    MemorySignals last_out_;  // ... the memory drove this
    std::deque<Read> reads_;    // in the order of their acceptance
    size_t presented_ = 0;      // the one whose beat is on the bus, while RVALID is high
    std::deque<MasterSignals::Address> write_requests_;
    std::vector<MasterSignals::Data> write_data_;            // burst that is arriving
    std::deque<std::vector<MasterSignals::Data>> write_bursts_;  // complete, without a request yet
    std::deque<Write> writes_;
    std::array<uint64_t, kChannels> handshakes_{};
    std::vector<Random> random_;  // one per channel, so that channels do not disturb each other
    Random choice_;
    uint64_t cycle_ = 0;
    Traffic traffic_;
};

}  // namespace palquant
