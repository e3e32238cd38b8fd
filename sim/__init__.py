"""Where model and machine meet: Verilator builds, memory models, test benches, scoreboard."""
