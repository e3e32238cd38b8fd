// Sources of clocks, for simulation that counts cycles of the machine's clock: what goes in comes
// out, whatever its frequency is, and is stable from the start.

module EHXPLLL (
    input CLKI, CLKFB, RST, STDBY, PHASESEL0, PHASESEL1, PHASEDIR, PHASESTEP, PHASELOADREG,
    input PLLWAKESYNC, ENCLKOP,
    output CLKOP, LOCK
);
  parameter CLKI_DIV = 1;
  parameter CLKFB_DIV = 1;
  parameter CLKOP_DIV = 1;
  parameter CLKOP_ENABLE = "ENABLED";
  parameter CLKOP_CPHASE = 0;
  parameter CLKOP_FPHASE = 0;
  parameter FEEDBK_PATH = "CLKOP";
  parameter OUTDIVIDER_MUXA = "DIVA";
  parameter PLLRST_ENA = "DISABLED";

  assign CLKOP = CLKI;
  assign LOCK = 1'b1;
endmodule
