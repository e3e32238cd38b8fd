// How fast the machine's model runs by itself: a second model follows the first one by turns, in a
// loop that does nothing but play the inputs of the first. What the driver costs is the difference.
#pragma once

#include <chrono>
#include <memory>
#include <stdexcept>
#include <vector>

#include "ports.h"

namespace palquant {

template <class Top>
class Replay {
  public:
    /// A fresh model that is ``turn`` cycles behind, or less.
    Replay(const Options& options, size_t turn) : turn_(turn) {
        prepare(context_, options);
        top_ = std::make_unique<Top>(&context_);
        top_->clk = 0;
        inputs_.reserve(turn);
    }
    ~Replay() { top_->final(); }

    /// What the first model is given at its next rising clock edge.
    void add(const Inputs& inputs) { inputs_.push_back(inputs); }
    bool full() const { return inputs_.size() >= turn_; }

    /// Follows the first model, which shows ``expected``. Returns the seconds that it took.
    double follow(const Outputs& expected) {
        const auto began = std::chrono::steady_clock::now();
        for (const Inputs& inputs : inputs_) {
            top_->rst = inputs.reset;
            drive(*top_, inputs.memory, inputs.lite);
            top_->clk = 0;
            top_->eval();
            top_->clk = 1;
            top_->eval();
        }
        const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - began;
        inputs_.clear();
        if (outputs_of(*top_) != expected)
            throw std::runtime_error("the replay went another way than the run");
        return taken.count();
    }

  private:
    const size_t turn_;
    VerilatedContext context_;
    std::unique_ptr<Top> top_;
    std::vector<Inputs> inputs_;
};

}  // namespace palquant
