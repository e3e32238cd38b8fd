// The driver's command line: settings, which hold for the whole process, and steps, which are
// carried out in the order given.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "memory.h"

namespace palquant {

constexpr const char* kUsageText = R"(usage: simulator --base ADDRESS --size BYTES --result FILE ...
settings
  --base ADDRESS          first bus address of the memory
  --size BYTES            bytes of the memory; other addresses answer DECERR
  --result FILE           JSON report, written at the end, also after an error
  --seed N                poison of memory and registers, stalls (0)
  --latency CYCLES        from address to first data, and from last data to response (1)
  --stall PROBABILITY     of a stall on each AXI4 channel in each cycle (0)
  --interleave            mix read data of different identifiers at random
  --read-error ADDRESS    the beat with this byte is answered SLVERR
  --write-error ADDRESS   a burst with this byte is answered SLVERR
  --mute CHANNEL:COUNT    AR, R, AW, W or B never moves again after COUNT handshakes
  --cycle-limit CYCLES    longest run
  --timeline FILE         what each engine did when, binary
  --waves FILE            waveforms (FST; a build with waves)
  --waves-from CYCLE      first cycle of waveforms, counted from the doorbell (all)
  --waves-to CYCLE        last cycle of waveforms
  --replay CYCLES         by turns of so many cycles, also time a bare loop over the same model
  --progress SECONDS      a line "progress RUN CYCLE LAYER" on stdout that often
steps
  --load FILE@ADDRESS     copy a file into memory
  --write OFFSET=VALUE    write a register
  --start OFFSET=VALUE    write a register, then count cycles until the interrupt
  --read OFFSET           read a register
  --dump FILE@ADDRESS:LENGTH  copy memory into a file
  --reset                 reset the machine; memory keeps its contents
Numbers are decimal or 0x hexadecimal.
)";

class UsageError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

struct Step {
    enum Kind { kLoad, kWrite, kStart, kRead, kDump, kReset } kind;
    std::string file;
    uint64_t address = 0;  // bus address, or register offset
    uint64_t value = 0;    // register value, or length
};

struct Options {
    AxiMemory::Config memory;
    std::string result, timeline, waves;
    uint64_t cycle_limit = uint64_t{1} << 62;
    uint64_t waves_from = 0, waves_to = ~uint64_t{0};
    uint64_t replay = 0;  // cycles of a turn; 0: none
    double progress = 0;  // seconds; 0: none
    std::vector<Step> steps;

    /// Throws UsageError.
    static Options parse(int argc, char** argv);
};

}  // namespace palquant
