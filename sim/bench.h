// The machine on its bench: one Verilated model, its memory and its host, clocked together.
#pragma once

#include <cstring>
#include <memory>

#include "Vpalquant.h"
#include "lite.h"
#include "memory.h"
#include "options.h"
#include "ports.h"
#include "profile.h"
#include "replay.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_fst_c.h"
#endif

namespace palquant {

constexpr unsigned kResetCycles = 8;
constexpr unsigned kResetLatency = 2;  // cycles until the reset shows at the outputs
constexpr uint64_t kTimePerCycle = 10;  // waveform time units

/// Ports that a design may lack (profile outputs) are left alone.
#define PALQUANT_GET(target, port) \
    if constexpr (requires { top_->port; }) target = top_->port

template <class Top>
class Bench {
  public:
    explicit Bench(const Options& options, Replay<Top>* replay = nullptr)
        : options_(options), memory_(config(options)), replay_(replay) {
        prepare(context_, options);
        context_.traceEverOn(VM_TRACE);
        top_ = std::make_unique<Top>(&context_);
#if VM_TRACE
        if (!options.waves.empty()) {
            top_->trace(&waves_, 99);
            waves_.open(options.waves.c_str());
        }
#else
        if (!options.waves.empty()) throw UsageError("this build records no waveforms");
#endif
        drive(*top_, memory_.signals(), lite_.signals());
        top_->clk = 0;
        top_->eval();
    }
    ~Bench() {
        top_->final();
#if VM_TRACE
        if (waves_.isOpen()) waves_.close();
#endif
    }

    void reset() {
        for (unsigned i = 0; i < kResetCycles; ++i) {
            top_->rst = 1;
            top_->eval();
            edge([&] { memory_.reset(master_, i >= kResetLatency); });
        }
        top_->rst = 0;
        top_->eval();
        cycle();  // AXI: no VALID in the cycle in which the reset ends
    }
    /// One clock cycle. Returns true if it completed a register write's address and data.
    bool cycle() {
        bool written = false;
        edge([&] {
            memory_.clock(master_);
            written = lite_.clock(subordinate_);
        });
        return written;
    }

    AxiMemory& memory() { return memory_; }
    const AxiMemory& memory() const { return memory_; }
    /// Register accesses: begun here, then clocked until lite().done().
    void write(uint32_t offset, uint32_t value) {
        lite_.write(offset, value);
        drive(*top_, memory_.signals(), lite_.signals());
        top_->eval();
    }
    void read(uint32_t offset) {
        lite_.read(offset);
        drive(*top_, memory_.signals(), lite_.signals());
        top_->eval();
    }
    const LiteMaster& lite() const { return lite_; }
    /// Cycles since the model was made, resets included.
    uint64_t cycles() const { return cycles_; }
    bool interrupt() const { return top_->irq; }
    TraceSignals trace() const {
        TraceSignals trace;
        PALQUANT_GET(trace.layer, trace_layer);
        PALQUANT_GET(trace.activity, trace_activity);
        PALQUANT_GET(trace.load_busy, trace_load_busy);
        PALQUANT_GET(trace.load_layer, trace_load_layer);
        PALQUANT_GET(trace.store_busy, trace_store_busy);
        PALQUANT_GET(trace.store_layer, trace_store_layer);
        return trace;
    }
    void record(bool enable) { recording_ = enable; }

    /// What the machine shows now.
    Outputs outputs() const { return outputs_of(*top_); }

  private:
    static AxiMemory::Config config(const Options& options) {
        AxiMemory::Config config = options.memory;
        config.bus_bytes = sizeof(std::declval<Top>().m_axi_rdata);
        static_assert(sizeof(std::declval<Top>().m_axi_rdata) <= kMaxBusBytes);
        return config;
    }

    /// A rising edge: what both sides drove before it decides, then both change together.
    template <class Models>
    void edge(Models models) {
        if (replay_) [[unlikely]]
            replay_->add({memory_.signals(), lite_.signals(), bool(top_->rst)});
        sample();
        top_->clk = 1;
        top_->eval();
        models();
        drive(*top_, memory_.signals(), lite_.signals());
#if VM_TRACE
        top_->eval();  // so that inputs change with the edge in the waveforms
        dump(0);
#endif
        top_->clk = 0;
        top_->eval();
#if VM_TRACE
        dump(kTimePerCycle / 2);
#endif
        ++cycles_;
    }

    void sample() {
        const Top& top = *top_;
        master_.ar.valid = top.m_axi_arvalid;
        if (master_.ar.valid) {
            master_.ar.address = top.m_axi_araddr;
            master_.ar.length = top.m_axi_arlen;
            master_.ar.size = top.m_axi_arsize;
            master_.ar.burst = top.m_axi_arburst;
            PALQUANT_GET(master_.ar.id, m_axi_arid);
        }
        master_.rready = top.m_axi_rready;
        master_.aw.valid = top.m_axi_awvalid;
        if (master_.aw.valid) {
            master_.aw.address = top.m_axi_awaddr;
            master_.aw.length = top.m_axi_awlen;
            master_.aw.size = top.m_axi_awsize;
            master_.aw.burst = top.m_axi_awburst;
            PALQUANT_GET(master_.aw.id, m_axi_awid);
        }
        master_.w.valid = top.m_axi_wvalid;
        if (master_.w.valid) {
            master_.w.last = top.m_axi_wlast;
            master_.w.strobe = top.m_axi_wstrb;
            std::memcpy(master_.w.bytes.data(), &top.m_axi_wdata, sizeof top.m_axi_wdata);
        }
        master_.bready = top.m_axi_bready;
        subordinate_.awready = top.s_axil_awready;
        subordinate_.wready = top.s_axil_wready;
        subordinate_.bvalid = top.s_axil_bvalid;
        subordinate_.bresp = top.s_axil_bresp;
        subordinate_.arready = top.s_axil_arready;
        subordinate_.rvalid = top.s_axil_rvalid;
        subordinate_.rresp = top.s_axil_rresp;
        subordinate_.rdata = top.s_axil_rdata;
    }

#if VM_TRACE
    void dump(uint64_t phase) {
        if (recording_ && waves_.isOpen()) waves_.dump(cycles_ * kTimePerCycle + phase);
    }
    VerilatedFstC waves_;
#endif
    const Options& options_;
    VerilatedContext context_;
    std::unique_ptr<Top> top_;
    AxiMemory memory_;
    LiteMaster lite_;
    MasterSignals master_;
    LiteMaster::Subordinate subordinate_;
    uint64_t cycles_ = 0;
    bool recording_ = true;
    Replay<Top>* replay_;
};

#undef PALQUANT_GET

}  // namespace palquant
