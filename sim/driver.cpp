// Runs programs on the Verilated machine at full speed: no interpreter is involved per clock
// cycle. Carries out the steps of its command line (options.h), then writes a JSON report.

#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>

#include "bench.h"

namespace palquant {

constexpr uint64_t kRegisterTimeout = 10000;  // cycles
constexpr uint64_t kClockCheck = 1 << 14;     // cycles between looks at the wall clock

// Exit status; driver.py turns each into an exception.
enum Status { kDone = 0, kUsage = 2, kProtocol = 3, kLimit = 4, kRegister = 5, kInternal = 6 };

class LimitError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};
class RegisterError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

struct Run {
    uint64_t start = 0;   // cycle of the doorbell since the model was made
    uint64_t cycles = 0;  // from the doorbell to the interrupt
    bool interrupt = false;
    size_t outstanding = 0;  // bus transactions open at the interrupt
    Histogram histogram;
};

class Driver {
  public:
    explicit Driver(const Options& options)
        : options_(options), replay_(follower(options)), bench_(options, replay_.get()) {
        if (!options.timeline.empty()) timeline_ = std::make_unique<Timeline>(options.timeline);
        bench_.record(options.waves_from == 0);
        bench_.reset();
    }

    void execute() {
        for (const Step& step : options_.steps) {
            switch (step.kind) {
                case Step::kLoad: load(step); break;
                case Step::kWrite: write(step); break;
                case Step::kStart: start(step); break;
                case Step::kRead: reads_.emplace_back(step.address, read(step)); break;
                case Step::kDump: dump(step); break;
                case Step::kReset: bench_.reset(); break;
            }
        }
    }

    void report(std::ostream& out, Status status, const std::string& error) {
        out << "{\"status\": " << status << ", \"error\": \"" << escape(error) << "\",\n\"runs\": [";
        for (size_t i = 0; i < runs_.size(); ++i) report_run(out << (i ? ",\n" : "\n"), runs_[i]);
        out << "],\n\"reads\": [";
        for (size_t i = 0; i < reads_.size(); ++i)
            out << (i ? ", " : "") << "[" << reads_[i].first << ", " << reads_[i].second << "]";
        const AxiMemory::Traffic& traffic = bench_.memory().traffic();
        out << "],\n\"traffic\": {\"read_bursts\": " << traffic.read_bursts
            << ", \"read_beats\": " << traffic.read_beats
            << ", \"write_bursts\": " << traffic.write_bursts
            << ", \"write_beats\": " << traffic.write_beats
            << ", \"error_responses\": " << traffic.error_responses << "},\n"
            << "\"cycles\": " << bench_.cycles() << ", \"seconds\": " << seconds_
            << ", \"bare_seconds\": " << bare_seconds_ << "}\n";
    }

    /// Where the machine is, to be appended to the text of an error.
    std::string place() const {
        if (runs_.empty()) return " (before the first doorbell)";
        const TraceSignals trace = bench_.trace();
        std::ostringstream text;
        text << " (run " << runs_.size() - 1 << ", cycle " << runs_.back().cycles << ", layer "
             << trace.layer << ", activity " << trace.activity << ", load engine "
             << (trace.load_busy ? "busy" : "idle") << ", store engine "
             << (trace.store_busy ? "busy" : "idle") << ", " << bench_.memory().outstanding()
             << " bus transactions open)";
        return text.str();
    }

  private:
    static std::unique_ptr<Replay<Vpalquant>> follower(const Options& options) {
        return options.replay ? std::make_unique<Replay<Vpalquant>>(options, options.replay)
                              : nullptr;
    }

    static std::string escape(const std::string& text) {
        std::string result;
        for (const char c : text) {
            if (c == '"' || c == '\\') result += '\\';
            result += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
        }
        return result;
    }

    static void report_run(std::ostream& out, const Run& run) {
        out << "{\"start\": " << run.start << ", \"cycles\": " << run.cycles
            << ", \"interrupt\": " << (run.interrupt ? "true" : "false")
            << ", \"outstanding\": " << run.outstanding << ", \"activity\": [";
        const char* separator = "";
        for (unsigned layer = 0; layer < kLayers; ++layer) {
            for (unsigned activity = 0; activity < kActivities; ++activity) {
                const Histogram::Entry& entry = run.histogram.entry(layer, activity);
                if (!entry.cycles) continue;
                out << separator << "[" << layer << ", " << activity << ", " << entry.cycles
                    << ", " << entry.first << ", " << entry.last << "]";
                separator = ", ";
            }
        }
        out << "]}";
    }

    void load(const Step& step) {
        std::ifstream file(step.file, std::ios::binary | std::ios::ate);
        if (!file) throw UsageError("cannot read " + step.file);
        const uint64_t length = static_cast<uint64_t>(file.tellg());
        char* target = reinterpret_cast<char*>(bench_.memory().at(step.address, length));
        file.seekg(0);
        if (!file.read(target, static_cast<std::streamsize>(length)))
            throw UsageError("cannot read " + step.file);
    }

    void dump(const Step& step) {
        const char* source =
            reinterpret_cast<char*>(bench_.memory().at(step.address, step.value));
        std::ofstream file(step.file, std::ios::binary);
        if (!file.write(source, static_cast<std::streamsize>(step.value)))
            throw UsageError("cannot write " + step.file);
    }

    void answered(const Step& step) {
        for (uint64_t i = 0; !bench_.lite().done(); ++i) {
            if (i == kRegisterTimeout)
                throw RegisterError(name(step) + " was not answered in " +
                                    std::to_string(kRegisterTimeout) + " cycles");
            bench_.cycle();
        }
        if (bench_.lite().response())
            throw RegisterError(name(step) + " was answered with response " +
                                std::to_string(bench_.lite().response()));
    }

    static std::string name(const Step& step) {
        std::ostringstream text;
        text << (step.kind == Step::kRead ? "reading" : "writing") << " register 0x" << std::hex
             << step.address;
        return text.str();
    }

    void write(const Step& step) {
        bench_.write(static_cast<uint32_t>(step.address), static_cast<uint32_t>(step.value));
        answered(step);
    }

    uint32_t read(const Step& step) {
        bench_.read(static_cast<uint32_t>(step.address));
        answered(step);
        return bench_.lite().value();
    }

    void start(const Step& step) {
        if (bench_.interrupt())
            throw RegisterError("the interrupt is high before " + name(step) + " starts a run");
        bench_.write(static_cast<uint32_t>(step.address), static_cast<uint32_t>(step.value));
        for (uint64_t i = 0; !bench_.cycle(); ++i)
            if (i == kRegisterTimeout) answered(step);
        Run& run = runs_.emplace_back();
        run.start = bench_.cycles();
        if (replay_) replay_->follow(bench_.outputs());  // up to the doorbell
        const auto began = std::chrono::steady_clock::now();
        const double bare = bare_seconds_;
        const auto close = [&] {
            const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - began;
            seconds_ += taken.count() - (bare_seconds_ - bare);
            if (timeline_) timeline_->finish(run.cycles);
        };
        try {
            follow(run);
        } catch (...) {  // a run that fails is worth a report all the more
            close();
            throw;
        }
        close();
        if (replay_) bare_seconds_ += replay_->follow(bench_.outputs());
        run.interrupt = true;
        run.outstanding = bench_.memory().outstanding();
        answered(step);
    }

    /// Counts what the trace says of the cycle before.
    TraceSignals observe(Run& run) {
        const TraceSignals trace = bench_.trace();
        if (run.cycles > 0) {
            run.histogram.add(run.cycles - 1, trace);
            if (timeline_) timeline_->add(run.cycles - 1, trace);
        }
        return trace;
    }

    /// Clocks until the interrupt.
    void follow(Run& run) {
        auto shown = std::chrono::steady_clock::now();
        while (!bench_.interrupt()) {
            if (run.cycles >= options_.cycle_limit)
                throw LimitError("no interrupt within " + std::to_string(run.cycles) + " cycles" +
                                 place());
            const TraceSignals trace = observe(run);
            if (!options_.waves.empty())
                bench_.record(run.cycles >= options_.waves_from && run.cycles <= options_.waves_to);
            bench_.cycle();
            if (replay_ && replay_->full()) bare_seconds_ += replay_->follow(bench_.outputs());
            if (++run.cycles % kClockCheck == 0 && options_.progress > 0) {
                const auto now = std::chrono::steady_clock::now();
                if (now - shown < std::chrono::duration<double>(options_.progress)) continue;
                shown = now;
                std::cout << "progress " << runs_.size() - 1 << " " << run.cycles << " "
                          << trace.layer << std::endl;
            }
        }
        observe(run);
    }

    const Options& options_;
    std::unique_ptr<Replay<Vpalquant>> replay_;
    Bench<Vpalquant> bench_;
    std::unique_ptr<Timeline> timeline_;
    std::vector<std::pair<uint64_t, uint32_t>> reads_;
    std::deque<Run> runs_;
    double seconds_ = 0, bare_seconds_ = 0;  // of all runs: with the driver, and of the replay
};

int run(int argc, char** argv) {
    Options options;
    try {
        options = Options::parse(argc, argv);
    } catch (const UsageError& error) {
        std::cerr << error.what() << "\n" << kUsageText;
        return kUsage;
    }
    std::unique_ptr<Driver> driver;
    Status status = kDone;
    std::string text;
    const auto fail = [&](Status kind, const std::exception& error) {
        status = kind;
        text = error.what();
    };
    try {
        driver = std::make_unique<Driver>(options);
        driver->execute();
    } catch (const UsageError& error) {
        fail(kUsage, error);
    } catch (const std::out_of_range& error) {
        fail(kUsage, error);
    } catch (const ProtocolError& error) {
        fail(kProtocol, error);
        if (driver) text += driver->place();
    } catch (const LimitError& error) {
        fail(kLimit, error);
    } catch (const RegisterError& error) {
        fail(kRegister, error);
    } catch (const std::exception& error) {
        fail(kInternal, error);
    }
    if (status != kDone) std::cerr << text << "\n";
    if (driver) {
        std::ofstream file(options.result);
        driver->report(file, status, text);
        if (!file.flush()) {
            std::cerr << "cannot write " << options.result << "\n";
            return kInternal;
        }
    }
    return status;
}

}  // namespace palquant

int main(int argc, char** argv) { return palquant::run(argc, argv); }
