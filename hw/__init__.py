"""The machine: the accelerator's gateware in Amaranth, its geometry, instructions, registers."""
