// Simulates an FPGA board. The host's end of its serial port is a pseudo-terminal: a program talks
// to it as to a real one.
//
// All work besides clocking is done once in a stretch of cycles; a cycle itself costs a comparison
// on each line and a count. The simulation never sleeps: with a quiet line the board may be
// computing, and nothing here can tell.

#include <fcntl.h>
#include <poll.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "Vboard.h"
#include "verilated.h"

namespace palquant {

// Cycles between looks at the terminal: a system call takes about as long as simulating five cycles
// of the smallest design, and a byte rarely less than so many cycles.
constexpr uint64_t kStretch = 256;
// Stretches between looks at whether somebody still listens.
constexpr uint64_t kListenerCheck = 1024;
constexpr size_t kBufferBytes = 4096;
constexpr unsigned kDataBits = 8;

// Exit status; board.py turns each into an exception.
enum Status { kDone = 0, kUsage = 2, kLine = 3, kInternal = 6 };

volatile std::sig_atomic_t stopped = 0;

class UsageError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};
class LineError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

std::runtime_error system_error(const std::string& what) {
    return std::runtime_error(what + ": " + std::strerror(errno));
}

struct Options {
    uint64_t divisor = 0;
    uint64_t cycles = 0;  // 0: no limit
    uint64_t seed = 0;

    static Options parse(int argc, char** argv) {
        Options options;
        for (int i = 1; i < argc; i += 2) {
            const std::string name = argv[i];
            uint64_t* const target = name == "--divisor"  ? &options.divisor
                                     : name == "--cycles" ? &options.cycles
                                     : name == "--seed"   ? &options.seed
                                                          : nullptr;
            if (!target || i + 1 == argc)
                throw UsageError(name + " is unknown, or lacks its value");
            const std::string value = argv[i + 1];
            if (value.empty() || value.find_first_not_of("0123456789") != std::string::npos)
                throw UsageError("'" + value + "' is not a number");
            *target = std::strtoull(value.c_str(), nullptr, 10);
        }
        if (options.divisor < 2) throw UsageError("--divisor is at least 2");
        return options;
    }
};

/// The host's end of the line. Both ends are held open: a host program may come and go.
class Terminal {
  public:
    Terminal() {
        master_ = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
        if (master_ < 0 || grantpt(master_) || unlockpt(master_))
            throw system_error("cannot make a pseudo-terminal");
        name_ = ptsname(master_);
        slave_ = open(name_.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC);
        termios settings;
        if (slave_ < 0 || tcgetattr(slave_, &settings)) throw system_error("cannot open " + name_);
        cfmakeraw(&settings);  // no echo, no line discipline: bytes
        if (tcsetattr(slave_, TCSANOW, &settings) ||
            fcntl(master_, F_SETFL, fcntl(master_, F_GETFL) | O_NONBLOCK) < 0)
            throw system_error("cannot set up " + name_);
    }
    ~Terminal() {
        close(slave_);
        close(master_);
    }

    const std::string& name() const { return name_; }

    /// Bytes that the host has written, as many as are there and fit.
    size_t read(uint8_t* bytes, size_t limit) {
        const ssize_t count = ::read(master_, bytes, limit);
        if (count < 0 && errno != EAGAIN && errno != EINTR) throw system_error("reading " + name_);
        return count < 0 ? 0 : static_cast<size_t>(count);
    }

    /// Hands bytes to the host; removes those that the terminal took.
    void write(std::vector<uint8_t>& bytes) {
        if (bytes.empty()) return;
        const ssize_t count = ::write(master_, bytes.data(), bytes.size());
        if (count < 0 && errno != EAGAIN && errno != EINTR) throw system_error("writing " + name_);
        if (count > 0) bytes.erase(bytes.begin(), bytes.begin() + count);
    }

  private:
    int master_ = -1, slave_ = -1;
    std::string name_;
};

/// Sends bytes to the board: 8 bits, no parity, one stop bit.
class Sender {
  public:
    explicit Sender(uint64_t divisor) : divisor_(divisor), buffer_(kBufferBytes) {}

    /// Takes what the host has written, once all that it wrote before is on the line.
    void refill(Terminal& terminal) {
        if (next_ < filled_) return;
        next_ = 0;
        filled_ = terminal.read(buffer_.data(), buffer_.size());
    }

    /// The line's level in the next cycle.
    bool step() {
        if (left_) {
            --left_;
            return level_;
        }
        if (!frame_) {
            if (next_ == filled_) return true;
            frame_ = 1u << (kDataBits + 1) | unsigned{buffer_[next_++]} << 1;
            bits_ = kDataBits + 2;
        }
        level_ = frame_ & 1;
        frame_ = --bits_ ? frame_ >> 1 : 0;
        left_ = divisor_ - 1;
        return level_;
    }

  private:
    const uint64_t divisor_;
    std::vector<uint8_t> buffer_;
    size_t next_ = 0, filled_ = 0;
    unsigned frame_ = 0, bits_ = 0;  // what is left to send, lowest bit first
    uint64_t left_ = 0;              // cycles of the present bit
    bool level_ = true;
};

/// Understands what the board sends.
class Receiver {
  public:
    explicit Receiver(uint64_t divisor) : divisor_(divisor) {}

    /// Throws LineError where a stop bit is due and the line is low.
    void step(bool level, uint64_t cycle) {
        if (left_) {
            if (--left_ == 0) sample(level, cycle);
        } else if (!level) {
            bit_ = 0;
            left_ = divisor_ / 2;
        }
    }

    std::vector<uint8_t>& bytes() { return bytes_; }

  private:
    void sample(bool level, uint64_t cycle) {
        if (bit_ == 0 && level) return;  // shorter than half a bit: no start
        if (bit_ == kDataBits + 1) {
            if (!level)
                throw LineError("cycle " + std::to_string(cycle) + ": tx is low in a stop bit; " +
                                "the board may send other than " + std::to_string(divisor_) +
                                " cycles a bit");
            bytes_.push_back(shift_);
            return;
        }
        if (bit_) shift_ = static_cast<uint8_t>(shift_ >> 1 | (level ? 0x80 : 0));
        ++bit_;
        left_ = divisor_;
    }

    const uint64_t divisor_;
    std::vector<uint8_t> bytes_;
    uint64_t left_ = 0;  // cycles until the line is looked at; 0: waiting for a start bit
    unsigned bit_ = 0;   // which bit that is
    uint8_t shift_ = 0;
};

class Board {
  public:
    explicit Board(const Options& options)
        : options_(options), sender_(options.divisor), receiver_(options.divisor) {
        // What has no initial value in the Verilog has none in the FPGA.
        context_.randReset(2);
        context_.randSeed(static_cast<int>(options.seed % 0x7fffffff) + 1);
        top_ = std::make_unique<Vboard>(&context_);
        top_->clk = 0;
        top_->rx = 1;
        top_->eval();
    }
    ~Board() { top_->final(); }

    void run() {
        std::cout << "terminal " << terminal_.name() << std::endl;
        began_ = std::chrono::steady_clock::now();
        const uint64_t limit = options_.cycles ? options_.cycles : ~uint64_t{0};
        for (uint64_t i = 1; !stopped && cycle_ < limit; ++i) {
            sender_.refill(terminal_);
            stretch(std::min(limit, cycle_ + kStretch));
            terminal_.write(receiver_.bytes());
            if (i % kListenerCheck == 0 && !listener()) break;
        }
    }

    /// What was done, in one line.
    std::string summary() const {
        const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - began_;
        char text[80];
        std::snprintf(text, sizeof text, "%llu cycles, %.0f cycles/s",
                      static_cast<unsigned long long>(cycle_),
                      static_cast<double>(cycle_) / std::max(taken.count(), 1e-9));
        return text;
    }

  private:
    /// Whether whoever started this is still there: its pipe has a reader. Otherwise a simulation
    /// whose program was killed would go on for ever.
    static bool listener() {
        pollfd output{STDOUT_FILENO, 0, 0};
        return poll(&output, 1, 0) <= 0 || !(output.revents & (POLLERR | POLLHUP));
    }

    void stretch(uint64_t end) {
        Vboard& top = *top_;
        for (; cycle_ < end; ++cycle_) {
            top.rx = sender_.step();
            top.clk = 1;
            top.eval();
            top.clk = 0;
            top.eval();
            receiver_.step(top.tx, cycle_);
        }
    }

    const Options& options_;
    VerilatedContext context_;
    std::unique_ptr<Vboard> top_;
    Terminal terminal_;
    Sender sender_;
    Receiver receiver_;
    uint64_t cycle_ = 0;
    std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
};

int run(int argc, char** argv) {
    for (const int number : {SIGTERM, SIGINT}) std::signal(number, [](int) { stopped = 1; });
    std::signal(SIGPIPE, SIG_IGN);  // see Board::listener
    try {
        const Options options = Options::parse(argc, argv);
        Board board(options);
        try {
            board.run();
        } catch (...) {
            std::cout << board.summary() << std::endl;
            throw;
        }
        std::cout << board.summary() << std::endl;
        return kDone;
    } catch (const UsageError& error) {
        std::cerr << error.what()
                  << "\nusage: board --divisor CYCLES [--cycles LIMIT] [--seed N]\n";
        return kUsage;
    } catch (const LineError& error) {
        std::cerr << error.what() << "\n";
        return kLine;
    } catch (const std::exception& error) {
        std::cerr << error.what() << "\n";
        return kInternal;
    }
}

}  // namespace palquant

int main(int argc, char** argv) { return palquant::run(argc, argv); }
