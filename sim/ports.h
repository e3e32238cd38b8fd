// The ports of a Verilated machine: what a bench sets and sees, whatever clocks it.
#pragma once

#include <cstring>

#include "lite.h"
#include "memory.h"
#include "options.h"
#include "verilated.h"

namespace palquant {

/// Ports that a design may lack (transaction identifiers) are left alone.
#define PALQUANT_SET(top, port, value) \
    if constexpr (requires { top.port; }) top.port = value

/// What a bench drives at one rising clock edge.
struct Inputs {
    MemorySignals memory;
    LiteMaster::Master lite;
    bool reset = false;
};

/// What a machine shows, to tell whether two of them go the same way.
struct Outputs {
    uint32_t read_address = 0, write_address = 0;
    unsigned layer = 0, activity = 0;
    bool operator==(const Outputs&) const = default;
};

/// Every register and memory starts with a random value; only reset may make it known.
inline void prepare(VerilatedContext& context, const Options& options) {
    context.randReset(2);
    context.randSeed(static_cast<int>(options.memory.seed % 0x7fffffff) + 1);
}

template <class Top>
Outputs outputs_of(const Top& top) {
    Outputs outputs;
    outputs.read_address = top.m_axi_araddr;
    outputs.write_address = top.m_axi_awaddr;
    if constexpr (requires { top.trace_layer; }) outputs.layer = top.trace_layer;
    if constexpr (requires { top.trace_activity; }) outputs.activity = top.trace_activity;
    return outputs;
}

/// Sets all inputs but clock and reset.
template <class Top>
void drive(Top& top, const MemorySignals& memory, const LiteMaster::Master& lite) {
    top.m_axi_arready = memory.arready;
    top.m_axi_awready = memory.awready;
    top.m_axi_wready = memory.wready;
    top.m_axi_rvalid = memory.rvalid;
    if (memory.rvalid) {
        top.m_axi_rlast = memory.rlast;
        top.m_axi_rresp = memory.rresp;
        PALQUANT_SET(top, m_axi_rid, memory.rid);
        std::memcpy(&top.m_axi_rdata, memory.rdata.data(), sizeof top.m_axi_rdata);
    }
    top.m_axi_bvalid = memory.bvalid;
    top.m_axi_bresp = memory.bresp;
    PALQUANT_SET(top, m_axi_bid, memory.bid);
    top.s_axil_awvalid = lite.awvalid;
    top.s_axil_awaddr = lite.awaddr;
    top.s_axil_wvalid = lite.wvalid;
    top.s_axil_wdata = lite.wdata;
    top.s_axil_wstrb = 0xf;
    top.s_axil_bready = lite.bready;
    top.s_axil_arvalid = lite.arvalid;
    top.s_axil_araddr = lite.araddr;
    top.s_axil_rready = lite.rready;
}

#undef PALQUANT_SET

}  // namespace palquant
