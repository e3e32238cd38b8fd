// An AXI4-Lite master that does one register access at a time: what a host's driver does.
#pragma once

#include <cstdint>

namespace palquant {

class LiteMaster {
  public:
    /// What the subordinate drives in one cycle.
    struct Subordinate {
        bool awready = false, wready = false, bvalid = false, arready = false, rvalid = false;
        unsigned bresp = 0, rresp = 0;
        uint32_t rdata = 0;
    };
    /// What the master drives in one cycle.
    struct Master {
        bool awvalid = false, wvalid = false, bready = false, arvalid = false, rready = false;
        uint32_t awaddr = 0, araddr = 0, wdata = 0;
    };

    const Master& signals() const { return out_; }
    /// Whether the access has been answered.
    bool done() const { return !out_.bready && !out_.rready; }
    /// Value of the last read, and response of the last access (0: OKAY).
    uint32_t value() const { return value_; }
    unsigned response() const { return response_; }

    void write(uint32_t address, uint32_t value) {
        out_.awvalid = out_.wvalid = out_.bready = true;
        out_.awaddr = address;
        out_.wdata = value;
    }
    void read(uint32_t address) {
        out_.arvalid = out_.rready = true;
        out_.araddr = address;
    }
    /// One rising clock edge. Returns true if it is the one that completes address and data of a
    /// write: the edge from which a doorbell's cycles are counted.
    bool clock(const Subordinate& in) {
        const bool writing = out_.awvalid || out_.wvalid;
        if (in.awready) out_.awvalid = false;
        if (in.wready) out_.wvalid = false;
        if (in.arready) out_.arvalid = false;
        if (in.bvalid && out_.bready) {
            response_ = in.bresp;
            out_.bready = false;
        }
        if (in.rvalid && out_.rready) {
            response_ = in.rresp;
            value_ = in.rdata;
            out_.rready = false;
        }
        return writing && !out_.awvalid && !out_.wvalid;
    }

  private:
    Master out_;
    uint32_t value_ = 0;
    unsigned response_ = 0;
};

}  // namespace palquant
