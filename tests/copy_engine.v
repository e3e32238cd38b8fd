// A machine with the ports of palquant that copies memory: a test bench for the test benches.
// One burst at a time: up to 256 beats into a scratch memory, then from there to the target.
// SPLIT reads a burst as two, with two identifiers, and counts how often their data alternates.
// FAULT makes it break one rule of AXI4, to see whether the memory model notices.

`define DATA 64

module palquant (
  input clk, input rst, output irq,
  output reg m_axi_arvalid, input m_axi_arready, output reg [31:0] m_axi_araddr,
  output reg [7:0] m_axi_arlen, output [2:0] m_axi_arsize, output [1:0] m_axi_arburst,
  output reg m_axi_arid, input m_axi_rid,
  input m_axi_rvalid, output m_axi_rready, input [`DATA-1:0] m_axi_rdata, input [1:0] m_axi_rresp,
  input m_axi_rlast,
  output reg m_axi_awvalid, input m_axi_awready, output reg [31:0] m_axi_awaddr,
  output reg [7:0] m_axi_awlen, output [2:0] m_axi_awsize, output [1:0] m_axi_awburst,
  output m_axi_awid, input m_axi_bid,
  output reg m_axi_wvalid, input m_axi_wready, output [`DATA-1:0] m_axi_wdata,
  output [`DATA/8-1:0] m_axi_wstrb, output m_axi_wlast,
  input m_axi_bvalid, output m_axi_bready, input [1:0] m_axi_bresp,
  input s_axil_awvalid, output s_axil_awready, input [11:0] s_axil_awaddr,
  input s_axil_wvalid, output s_axil_wready, input [31:0] s_axil_wdata, input [3:0] s_axil_wstrb,
  output reg s_axil_bvalid, input s_axil_bready, output [1:0] s_axil_bresp,
  input s_axil_arvalid, output s_axil_arready, input [11:0] s_axil_araddr,
  output reg s_axil_rvalid, input s_axil_rready, output reg [31:0] s_axil_rdata,
  output [1:0] s_axil_rresp,
  output [11:0] trace_layer, output [3:0] trace_activity,
  output trace_load_busy, output [11:0] trace_load_layer,
  output trace_store_busy, output [11:0] trace_store_layer
);
  localparam BYTES = `DATA / 8;
  localparam IDLE = 0, ADDRESS = 1, READ = 2, REQUEST = 3, WRITE = 4, RESPONSE = 5;
  // Faults.
  localparam WITHDRAW = 1, CHANGE = 2, EARLY_LAST = 3, NO_LAST = 4, CROSS = 5, NARROW = 6,
             UNALIGNED = 7, WRAP = 8, NO_ANSWER = 9, EARLY_INTERRUPT = 10, DROP_DATA = 11;

  reg [31:0] source = 32'h0;
  reg [31:0] target, beats, fault, errors, cycles, split, switches;
  reg [2:0] state;
  reg [8:0] length, count, first;  // beats of a burst, place of the next, beats of its first half
  reg [8:0] second_count;
  reg [1:0] lasts;
  reg done, last_id;
  reg [`DATA-1:0] scratch [255:0];
  reg [31:0] scratch_word, next_scratch_word;
  initial begin
SCRATCH_WORDS
  end

  // Beats up to the next 4 KiB boundary of both sides.
  wire [12:0] room_source = (13'd4096 - {1'b0, source[11:0]}) / BYTES;
  wire [12:0] room_target = (13'd4096 - {1'b0, target[11:0]}) / BYTES;
  wire [12:0] room = fault == CROSS ? 13'd256 : room_source < room_target ? room_source : room_target;
  wire [31:0] next_length = beats < room && beats < 256 ? beats : room < 256 ? room : 256;

  wire two = split[0] && next_length > 1;

  assign irq = done;
  assign m_axi_arsize = $clog2(BYTES) - (fault == NARROW ? 1 : 0);
  assign m_axi_awsize = $clog2(BYTES);
  assign m_axi_arburst = fault == WRAP ? 2 : 1;
  assign m_axi_awburst = 1;
  assign m_axi_awid = 0;
  assign m_axi_rready = state == READ;
  assign m_axi_wdata = scratch[count[7:0]] ^ (fault == DROP_DATA && cycles[0] ? 1 : 0);
  assign m_axi_wstrb = {BYTES{1'b1}};
  assign m_axi_wlast = count + 1 == length - (fault == EARLY_LAST ? 1 : 0) && fault != NO_LAST;
  assign m_axi_bready = state == RESPONSE;

  // What the trace says is of the cycle before.
  reg [2:0] traced;
  always @(posedge clk) traced <= state;
  assign trace_layer = 12'd7;
  assign trace_activity = {1'b0, traced};
  assign trace_load_busy = traced == ADDRESS || traced == READ;
  assign trace_load_layer = 12'd7;
  assign trace_store_busy = traced == REQUEST || traced == WRITE || traced == RESPONSE;
  assign trace_store_layer = 12'd8;

  // Registers: one access at a time, address and data together.
  wire write = s_axil_awvalid && s_axil_wvalid && !s_axil_bvalid && fault != NO_ANSWER;
  assign s_axil_awready = write;
  assign s_axil_wready = write;
  assign s_axil_bresp = 0;
  assign s_axil_arready = !s_axil_rvalid;
  assign s_axil_rresp = s_axil_rvalid && read_bad ? 2 : 0;
  reg read_bad;

  always @(posedge clk) begin
    cycles <= cycles + 1;
    if (s_axil_bvalid && s_axil_bready) s_axil_bvalid <= 0;
    if (s_axil_rvalid && s_axil_rready) s_axil_rvalid <= 0;
    if (s_axil_arvalid && s_axil_arready) begin
      s_axil_rvalid <= 1;
      read_bad <= 0;
      case (s_axil_araddr)
        12'h00: s_axil_rdata <= source;
        12'h04: s_axil_rdata <= target;
        12'h08: s_axil_rdata <= beats;
        12'h14: s_axil_rdata <= errors;
        12'h18: s_axil_rdata <= cycles;
        12'h1c: s_axil_rdata <= scratch_word;
        12'h28: s_axil_rdata <= switches;
        12'h2c: s_axil_rdata <= next_scratch_word;
        default: read_bad <= 1;
      endcase
    end
    scratch_word <= scratch[1][31:0];
    next_scratch_word <= scratch[2][31:0];
    case (state)
      IDLE: ;
      ADDRESS: begin
        m_axi_arvalid <= 1;
        m_axi_araddr <= source + (fault == UNALIGNED ? 1 : 0);
        m_axi_arlen <= (two ? next_length / 2 : next_length) - 1;
        m_axi_arid <= 0;
        length <= next_length[8:0];
        first <= two ? next_length / 2 : next_length;
        count <= 0;
        second_count <= two ? next_length / 2 : next_length;
        lasts <= two ? 2 : 1;
        if (fault == WITHDRAW && m_axi_arvalid && !m_axi_arready) m_axi_arvalid <= 0;
        if (fault == CHANGE && m_axi_arvalid && !m_axi_arready) m_axi_araddr <= source + BYTES;
        if (m_axi_arvalid && m_axi_arready) begin
          m_axi_arvalid <= two;
          m_axi_araddr <= source + first * BYTES;
          m_axi_arlen <= length - first - 1;
          m_axi_arid <= 1;
          state <= READ;
        end
      end
      READ: begin
        if (m_axi_arready) m_axi_arvalid <= 0;
        if (m_axi_rvalid) begin
          scratch[m_axi_rid ? second_count[7:0] : count[7:0]] <= m_axi_rdata;
          errors <= errors + (m_axi_rresp != 0);
          if (m_axi_rid) second_count <= second_count + 1;
          else count <= count + 1;
          last_id <= m_axi_rid;
          switches <= switches + (last_id != m_axi_rid);
          lasts <= lasts - m_axi_rlast;
          if (m_axi_rlast && lasts == 1) begin
            count <= 0;
            state <= REQUEST;
          end
        end
      end
      REQUEST: begin
        m_axi_awvalid <= 1;
        m_axi_awaddr <= target;
        m_axi_awlen <= length - 1;
        if (m_axi_awvalid && m_axi_awready) begin
          m_axi_awvalid <= 0;
          m_axi_wvalid <= 1;
          state <= WRITE;
        end
      end
      WRITE: if (m_axi_wready) begin
        count <= count + 1;
        if (m_axi_wlast) begin
          m_axi_wvalid <= 0;
          state <= RESPONSE;
          if (fault == EARLY_INTERRUPT) done <= 1;
        end
      end
      RESPONSE: if (m_axi_bvalid) begin
        errors <= errors + (m_axi_bresp != 0);
        source <= source + length * BYTES;
        target <= target + length * BYTES;
        beats <= beats - length;
        done <= beats == length;
        state <= beats == length ? IDLE : ADDRESS;
      end
    endcase
    if (write) begin
      s_axil_bvalid <= 1;
      case (s_axil_awaddr)
        12'h00: source <= s_axil_wdata;
        12'h04: target <= s_axil_wdata;
        12'h08: beats <= s_axil_wdata;
        12'h0c: state <= ADDRESS;
        12'h10: done <= 0;
        12'h14: errors <= 0;
        12'h20: fault <= s_axil_wdata;
        12'h24: split <= s_axil_wdata;
      endcase
    end
    if (rst) begin
      state <= IDLE;
      {m_axi_arvalid, m_axi_awvalid, m_axi_wvalid, s_axil_bvalid, s_axil_rvalid} <= 0;
      {done, source, target, beats, fault, errors, split, switches} <= 0;
    end
  end
endmodule
