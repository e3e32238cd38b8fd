// How fast the machine's model runs by itself: its inputs are recorded once, then played into a
// fresh model by a loop that does nothing else. What the driver costs is the difference.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "lite.h"
#include "memory.h"

namespace palquant {

/// What a bench drives at one rising clock edge.
struct Inputs {
    MemorySignals memory;
    LiteMaster::Master lite;
    bool reset = false;
};

/// What a model shows at the end of a recording, to tell whether a replay has gone the same way.
struct Outputs {
    uint32_t read_address = 0, write_address = 0;
    unsigned layer = 0, activity = 0;
    bool operator==(const Outputs&) const = default;
};

struct Recording {
    std::vector<Inputs> inputs;
    size_t doorbell = 0;  // index of the first edge that counts
    Outputs end;
};

/// Seconds that ``cycles`` cycles take, with the driver and without.
struct ReplayTimes {
    uint64_t cycles = 0;
    double driver = 0, bare = 0;
};

}  // namespace palquant
