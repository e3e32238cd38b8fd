// Where the cycles of a run went: a histogram of layer x activity, and, on request, intervals of
// the three engines for a timeline. Cycles are counted from the doorbell.
#pragma once

#include <array>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>

namespace palquant {

constexpr unsigned kLayers = 1 << 12;
constexpr unsigned kActivities = 1 << 4;

/// What the trace outputs say in one cycle.
struct TraceSignals {
    unsigned layer = 0, activity = 0;
    bool load_busy = false, store_busy = false;
    unsigned load_layer = 0, store_layer = 0;
};

class Histogram {
  public:
    struct Entry {
        uint64_t cycles = 0, first = 0, last = 0;
    };

    void add(uint64_t cycle, const TraceSignals& trace) {
        Entry& entry = (*entries_)[trace.layer][trace.activity];
        if (entry.cycles++ == 0) entry.first = cycle;
        entry.last = cycle;
    }
    const Entry& entry(unsigned layer, unsigned activity) const {
        return (*entries_)[layer][activity];
    }

  private:
    using Table = std::array<std::array<Entry, kActivities>, kLayers>;
    std::unique_ptr<Table> entries_ = std::make_unique<Table>();
};

/// Writes one record for each stretch of cycles in which an engine did one thing for one layer.
/// A record is little-endian: u64 first cycle, u64 last cycle, u16 layer, u8 engine, u8 activity,
/// u32 run. `Timeline` in driver.py reads it.
class Timeline {
  public:
    enum Engine : uint8_t { kLoad, kCompute, kStore, kEngines };

    explicit Timeline(const std::string& path) : file_(std::fopen(path.c_str(), "wb")) {
        if (!file_) throw std::runtime_error("cannot write " + path);
    }
    ~Timeline() { std::fclose(file_); }
    Timeline(const Timeline&) = delete;
    Timeline& operator=(const Timeline&) = delete;

    void add(uint64_t cycle, const TraceSignals& trace) {
        track(kLoad, cycle, trace.load_busy, trace.load_layer, 0);
        track(kCompute, cycle, true, trace.layer, trace.activity);
        track(kStore, cycle, trace.store_busy, trace.store_layer, 0);
    }
    /// End of a run: closes what is open.
    void finish(uint64_t cycle) {
        for (unsigned engine = 0; engine < kEngines; ++engine)
            track(static_cast<Engine>(engine), cycle, false, 0, 0);
        if (std::fflush(file_) != 0) fail();
        ++run_;
    }

  private:
    struct Record {
        uint64_t first, last;
        uint16_t layer;
        uint8_t engine, activity;
        uint32_t run;
    };
    static_assert(sizeof(Record) == 24);

    void track(Engine engine, uint64_t cycle, bool busy, unsigned layer, unsigned activity) {
        Record& open = open_[engine];
        if (busy_[engine] && busy && open.layer == layer && open.activity == activity) return;
        if (busy_[engine]) {
            open.last = cycle - 1;
            if (std::fwrite(&open, sizeof open, 1, file_) != 1) fail();
        }
        busy_[engine] = busy;
        open = {cycle, cycle, static_cast<uint16_t>(layer), engine,
                static_cast<uint8_t>(activity), run_};
    }

    [[noreturn]] static void fail() {
        throw std::runtime_error("cannot write the timeline: disk full?");
    }

    std::FILE* file_;
    std::array<Record, kEngines> open_{};
    std::array<bool, kEngines> busy_{};
    uint32_t run_ = 0;
};

}  // namespace palquant
