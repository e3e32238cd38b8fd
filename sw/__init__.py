"""How a network is said to the machine: graph, passes, placement, program, image, emulator."""
