// Cells of Lattice ECP5 that Yosys knows as black boxes only, as far as Yosys makes use of them.
// After Lattice FPGA-TN-02204 (ECP5 memory usage guide) and Yosys' lattice/brams_map_16kd.v; a port
// or a parameter that is not here is refused by whoever reads the netlist.

// Block RAM: 18432 bits, two ports with widths, clocks and enables of their own.
//
// The memory is 512 rows of four 9-bit bytes. A port of 1, 2 or 4 bits sees eight bits of a byte,
// one of 9 sees a byte, one of 18 half a row. 36 bits take the data pins of both ports: port A
// writes them, port B reads them. From 18 bits on, the lowest address pins are byte enables.
//
// What one port reads while the other writes it is not defined: here it reads the inverse of what
// is written, so that a netlist that relies on either value fails. This is meant for ports with the
// same clock: of another clock, a write counts as under way all the time that the clock is high.
module DP16KD #(
    parameter integer DATA_WIDTH_A = 18,
    parameter integer DATA_WIDTH_B = 18,
    parameter REGMODE_A = "NOREG",
    parameter REGMODE_B = "NOREG",
    parameter RESETMODE = "SYNC",
    parameter ASYNC_RESET_RELEASE = "SYNC",
    parameter [39:0] CSDECODE_A = "0b000",
    parameter [39:0] CSDECODE_B = "0b000",
    parameter WRITEMODE_A = "NORMAL",
    parameter WRITEMODE_B = "NORMAL",
    parameter CLKAMUX = "CLKA",
    parameter CLKBMUX = "CLKB",
    parameter WID = 0,
    parameter GSR = "ENABLED",
    parameter INIT_DATA = "STATIC",
    parameter [319:0] INITVAL_00 = 320'h0,
    parameter [319:0] INITVAL_01 = 320'h0,
    parameter [319:0] INITVAL_02 = 320'h0,
    parameter [319:0] INITVAL_03 = 320'h0,
    parameter [319:0] INITVAL_04 = 320'h0,
    parameter [319:0] INITVAL_05 = 320'h0,
    parameter [319:0] INITVAL_06 = 320'h0,
    parameter [319:0] INITVAL_07 = 320'h0,
    parameter [319:0] INITVAL_08 = 320'h0,
    parameter [319:0] INITVAL_09 = 320'h0,
    parameter [319:0] INITVAL_0A = 320'h0,
    parameter [319:0] INITVAL_0B = 320'h0,
    parameter [319:0] INITVAL_0C = 320'h0,
    parameter [319:0] INITVAL_0D = 320'h0,
    parameter [319:0] INITVAL_0E = 320'h0,
    parameter [319:0] INITVAL_0F = 320'h0,
    parameter [319:0] INITVAL_10 = 320'h0,
    parameter [319:0] INITVAL_11 = 320'h0,
    parameter [319:0] INITVAL_12 = 320'h0,
    parameter [319:0] INITVAL_13 = 320'h0,
    parameter [319:0] INITVAL_14 = 320'h0,
    parameter [319:0] INITVAL_15 = 320'h0,
    parameter [319:0] INITVAL_16 = 320'h0,
    parameter [319:0] INITVAL_17 = 320'h0,
    parameter [319:0] INITVAL_18 = 320'h0,
    parameter [319:0] INITVAL_19 = 320'h0,
    parameter [319:0] INITVAL_1A = 320'h0,
    parameter [319:0] INITVAL_1B = 320'h0,
    parameter [319:0] INITVAL_1C = 320'h0,
    parameter [319:0] INITVAL_1D = 320'h0,
    parameter [319:0] INITVAL_1E = 320'h0,
    parameter [319:0] INITVAL_1F = 320'h0,
    parameter [319:0] INITVAL_20 = 320'h0,
    parameter [319:0] INITVAL_21 = 320'h0,
    parameter [319:0] INITVAL_22 = 320'h0,
    parameter [319:0] INITVAL_23 = 320'h0,
    parameter [319:0] INITVAL_24 = 320'h0,
    parameter [319:0] INITVAL_25 = 320'h0,
    parameter [319:0] INITVAL_26 = 320'h0,
    parameter [319:0] INITVAL_27 = 320'h0,
    parameter [319:0] INITVAL_28 = 320'h0,
    parameter [319:0] INITVAL_29 = 320'h0,
    parameter [319:0] INITVAL_2A = 320'h0,
    parameter [319:0] INITVAL_2B = 320'h0,
    parameter [319:0] INITVAL_2C = 320'h0,
    parameter [319:0] INITVAL_2D = 320'h0,
    parameter [319:0] INITVAL_2E = 320'h0,
    parameter [319:0] INITVAL_2F = 320'h0,
    parameter [319:0] INITVAL_30 = 320'h0,
    parameter [319:0] INITVAL_31 = 320'h0,
    parameter [319:0] INITVAL_32 = 320'h0,
    parameter [319:0] INITVAL_33 = 320'h0,
    parameter [319:0] INITVAL_34 = 320'h0,
    parameter [319:0] INITVAL_35 = 320'h0,
    parameter [319:0] INITVAL_36 = 320'h0,
    parameter [319:0] INITVAL_37 = 320'h0,
    parameter [319:0] INITVAL_38 = 320'h0,
    parameter [319:0] INITVAL_39 = 320'h0,
    parameter [319:0] INITVAL_3A = 320'h0,
    parameter [319:0] INITVAL_3B = 320'h0,
    parameter [319:0] INITVAL_3C = 320'h0,
    parameter [319:0] INITVAL_3D = 320'h0,
    parameter [319:0] INITVAL_3E = 320'h0,
    parameter [319:0] INITVAL_3F = 320'h0
) (
    input DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5,
          DIA4, DIA3, DIA2, DIA1, DIA0,
    input ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0,
    input CEA, OCEA, CLKA, WEA, RSTA, CSA2, CSA1, CSA0,
    output DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5,
           DOA4, DOA3, DOA2, DOA1, DOA0,
    input DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5,
          DIB4, DIB3, DIB2, DIB1, DIB0,
    input ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0,
    input CEB, OCEB, CLKB, WEB, RSTB, CSB2, CSB1, CSB0,
    output DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5,
           DOB4, DOB3, DOB2, DOB1, DOB0
);
    wire [17:0] dia = {DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7,
                       DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0};
    wire [17:0] dib = {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7,
                       DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0};
    wire [13:0] ada = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2,
                       ADA1, ADA0};
    wire [13:0] adb = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2,
                       ADB1, ADB0};
    wire clka = (CLKAMUX == "INV") ? ~CLKA : CLKA;
    wire clkb = (CLKBMUX == "INV") ? ~CLKB : CLKB;
    wire enable_a = CEA && {CSA2, CSA1, CSA0} == {CSDECODE_A[16], CSDECODE_A[8], CSDECODE_A[0]};
    wire enable_b = CEB && {CSB2, CSB1, CSB0} == {CSDECODE_B[16], CSDECODE_B[8], CSDECODE_B[0]};
    // A synchronous reset of a port takes the place of its write.
    wire write_a = enable_a && WEA && !(RESETMODE == "SYNC" && RSTA);
    wire write_b = enable_b && WEB && !(RESETMODE == "SYNC" && RSTB);

    // Place of a word within its row.
    function automatic [5:0] place(input integer width, input [4:0] address);
        case (width)
            1: place = 9 * address[4:3] + address[2:0];
            2: place = 9 * address[4:3] + {address[2:1], 1'b0};
            4: place = 9 * address[4:3] + {address[2], 2'b00};
            9: place = 9 * address[4:3];
            18: place = 18 * address[4];
            default: place = 0;
        endcase
    endfunction

    // Bits of a row that a write changes.
    function automatic [35:0] mask(input integer width, input [4:0] address);
        case (width)
            1: mask = 36'h1;
            2: mask = 36'h3;
            4: mask = 36'hf;
            9: mask = 36'h1ff;
            18: mask = {{9{address[1]}}, {9{address[0]}}};
            default: mask = {{9{address[3]}}, {9{address[2]}}, {9{address[1]}}, {9{address[0]}}};
        endcase
        mask = mask << place(width, address);
    endfunction

    // Two words of 18 bits to a row, in places of 20 bits.
    localparam [20479:0] INITIAL = {
        INITVAL_3F, INITVAL_3E, INITVAL_3D, INITVAL_3C, INITVAL_3B, INITVAL_3A, INITVAL_39,
        INITVAL_38, INITVAL_37, INITVAL_36, INITVAL_35, INITVAL_34, INITVAL_33, INITVAL_32,
        INITVAL_31, INITVAL_30, INITVAL_2F, INITVAL_2E, INITVAL_2D, INITVAL_2C, INITVAL_2B,
        INITVAL_2A, INITVAL_29, INITVAL_28, INITVAL_27, INITVAL_26, INITVAL_25, INITVAL_24,
        INITVAL_23, INITVAL_22, INITVAL_21, INITVAL_20, INITVAL_1F, INITVAL_1E, INITVAL_1D,
        INITVAL_1C, INITVAL_1B, INITVAL_1A, INITVAL_19, INITVAL_18, INITVAL_17, INITVAL_16,
        INITVAL_15, INITVAL_14, INITVAL_13, INITVAL_12, INITVAL_11, INITVAL_10, INITVAL_0F,
        INITVAL_0E, INITVAL_0D, INITVAL_0C, INITVAL_0B, INITVAL_0A, INITVAL_09, INITVAL_08,
        INITVAL_07, INITVAL_06, INITVAL_05, INITVAL_04, INITVAL_03, INITVAL_02, INITVAL_01,
        INITVAL_00
    };
    reg [35:0] rows [0:511];
    integer row;
    initial begin
        for (row = 0; row < 512; row = row + 1)
            rows[row] = {INITIAL[40 * row + 20 +: 18], INITIAL[40 * row +: 18]};
    end

    wire [8:0] row_a = ada[13:5];
    wire [8:0] row_b = adb[13:5];
    wire [35:0] mask_a = write_a ? mask(DATA_WIDTH_A, ada[4:0]) : 36'h0;
    wire [35:0] mask_b = write_b ? mask(DATA_WIDTH_B, adb[4:0]) : 36'h0;
    wire [35:0] data_a = (DATA_WIDTH_A == 36) ? {dib, dia}
                                              : {18'h0, dia} << place(DATA_WIDTH_A, ada[4:0]);
    wire [35:0] data_b = {18'h0, dib} << place(DATA_WIDTH_B, adb[4:0]);
    wire [35:0] clash_a = (clkb && row_a == row_b) ? mask_b : 36'h0;
    wire [35:0] clash_b = (clka && row_a == row_b) ? mask_a : 36'h0;

    // A row as a port finds it, with wrong bits where the other port is writing.
    wire [35:0] found_a = (rows[row_a] & ~clash_a) | (~data_b & clash_a);
    wire [35:0] found_b = (rows[row_b] & ~clash_b) | (~data_a & clash_b);
    wire [35:0] seen_a = (WRITEMODE_A == "WRITETHROUGH") ? (found_a & ~mask_a) | (data_a & mask_a)
                                                         : found_a;
    wire [35:0] seen_b = (WRITEMODE_B == "WRITETHROUGH") ? (found_b & ~mask_b) | (data_b & mask_b)
                                                         : found_b;
    wire read_a = enable_a && !(WEA && WRITEMODE_A == "NORMAL");
    wire read_b = enable_b && !(WEB && WRITEMODE_B == "NORMAL");

    // A row as a port leaves it: with what the other port is writing to it, which would be undone
    // otherwise. Both leave the same; of a bit that both write, A's value.
    wire [35:0] left_a = (rows[row_a] & ~mask_a & ~clash_a) | (data_a & mask_a)
                         | (data_b & clash_a & ~mask_a);
    wire [35:0] left_b = (rows[row_b] & ~mask_b & ~clash_b) | (data_a & clash_b)
                         | (data_b & mask_b & ~clash_b);

    reg [35:0] latch_a = 0, latch_b = 0;  // behind the memory
    reg [35:0] out_a = 0, out_b = 0;      // behind the optional output registers
    always @(posedge clka) begin
        if (RSTA) latch_a <= 0;
        else if (read_a) latch_a <= seen_a >> place(DATA_WIDTH_A, ada[4:0]);
        if (RSTA) out_a <= 0;
        else if (OCEA) out_a <= latch_a;
        if (write_a) rows[row_a] <= left_a;
    end
    always @(posedge clkb) begin
        if (RSTB) latch_b <= 0;
        else if (read_b) latch_b <= seen_b >> place(DATA_WIDTH_B, adb[4:0]);
        if (RSTB) out_b <= 0;
        else if (OCEB) out_b <= latch_b;
        if (write_b) rows[row_b] <= left_b;
    end
    generate
        if (RESETMODE != "SYNC") begin
            always @(posedge RSTA) begin latch_a <= 0; out_a <= 0; end
            always @(posedge RSTB) begin latch_b <= 0; out_b <= 0; end
        end
    endgenerate

    wire [35:0] result_a = (REGMODE_A == "OUTREG") ? out_a : latch_a;
    wire [35:0] result_b = (REGMODE_B == "OUTREG") ? out_b : latch_b;
    assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5,
            DOA4, DOA3, DOA2, DOA1, DOA0} = (DATA_WIDTH_B == 36) ? result_b[17:0] : result_a[17:0];
    assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5,
            DOB4, DOB3, DOB2, DOB1, DOB0} = (DATA_WIDTH_B == 36) ? result_b[35:18] : result_b[17:0];
endmodule

// Multiplier, without its registers: Yosys uses none of them.
module MULT18X18D (
    input A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0,
    input B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0,
    input C17, C16, C15, C14, C13, C12, C11, C10, C9, C8, C7, C6, C5, C4, C3, C2, C1, C0,
    input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB,
    output P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18,
           P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0
);
    wire signed [35:0] a = {{18{SIGNEDA & A17}}, A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7,
                            A6, A5, A4, A3, A2, A1, A0};
    wire signed [35:0] b = {{18{SIGNEDB & B17}}, B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7,
                            B6, B5, B4, B3, B2, B1, B0};
    assign {P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19,
            P18, P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0}
        = a * b;
endmodule
