#include "options.h"

#include <algorithm>
#include <map>

namespace palquant {

namespace {

uint64_t number(const std::string& text) {
    size_t used = 0;
    uint64_t value = 0;
    try {
        value = std::stoull(text, &used, 0);
    } catch (const std::logic_error&) {
        used = 0;
    }
    if (used == 0 || used != text.size() || text[0] == '-')
        throw UsageError("'" + text + "' is not a number");
    return value;
}

double real(const std::string& text, double limit, const std::string& kind) {
    size_t used = 0;
    double value = -1;
    try {
        value = std::stod(text, &used);
    } catch (const std::logic_error&) {
        used = 0;
    }
    if (used != text.size() || !(value >= 0 && value < limit))
        throw UsageError("'" + text + "' is not " + kind);
    return value;
}

/// Splits at the last `separator`.
std::pair<std::string, std::string> split(const std::string& text, char separator) {
    const size_t place = text.rfind(separator);
    if (place == std::string::npos)
        throw UsageError("'" + text + "' has no '" + separator + "'");
    return {text.substr(0, place), text.substr(place + 1)};
}

Step parse_step(Step::Kind kind, const std::string& text) {
    Step step{kind, {}, 0, 0};
    if (kind == Step::kRead) {
        step.address = number(text);
    } else if (kind == Step::kWrite || kind == Step::kStart) {
        const auto [offset, value] = split(text, '=');
        step.address = number(offset);
        step.value = number(value);
    } else {
        const auto [file, place] = split(text, '@');
        step.file = file;
        if (kind == Step::kLoad) {
            step.address = number(place);
        } else {
            const auto [address, length] = split(place, ':');
            step.address = number(address);
            step.value = number(length);
        }
    }
    return step;
}

void parse_mute(AxiMemory::Config& config, const std::string& text) {
    const auto [channel, count] = split(text, ':');
    const auto found = std::find(kChannelNames.begin(), kChannelNames.end(), channel);
    if (found == kChannelNames.end()) throw UsageError("no channel is called '" + channel + "'");
    config.mute[found - kChannelNames.begin()] = number(count);
}

}  // namespace

Options Options::parse(int argc, char** argv) {
    static const std::map<std::string, Step::Kind> steps = {
        {"--load", Step::kLoad}, {"--write", Step::kWrite}, {"--start", Step::kStart},
        {"--read", Step::kRead}, {"--dump", Step::kDump},
    };
    Options options;
    for (int i = 1; i < argc; ++i) {
        const std::string name = argv[i];
        if (name == "--interleave") {
            options.memory.interleave = true;
            continue;
        }
        if (name == "--reset") {
            options.steps.push_back({Step::kReset, {}, 0, 0});
            continue;
        }
        if (i + 1 == argc) throw UsageError(name + " is unknown, or lacks its value");
        const std::string value = argv[++i];
        if (const auto step = steps.find(name); step != steps.end())
            options.steps.push_back(parse_step(step->second, value));
        else if (name == "--base") options.memory.base = number(value);
        else if (name == "--size") options.memory.size = number(value);
        else if (name == "--result") options.result = value;
        else if (name == "--seed") options.memory.seed = number(value);
        else if (name == "--latency") options.memory.latency = static_cast<unsigned>(number(value));
        else if (name == "--stall") 
            // With certainty of a stall nothing would ever move.
            options.memory.stall = real(value, 1, "a probability below 1");
        else if (name == "--progress") options.progress = real(value, 1e9, "a number of seconds");
        else if (name == "--replay") options.replay = number(value);
        else if (name == "--read-error") options.memory.read_error = number(value);
        else if (name == "--write-error") options.memory.write_error = number(value);
        else if (name == "--mute") parse_mute(options.memory, value);
        else if (name == "--cycle-limit") options.cycle_limit = number(value);
        else if (name == "--timeline") options.timeline = value;
        else if (name == "--waves") options.waves = value;
        else if (name == "--waves-from") options.waves_from = number(value);
        else if (name == "--waves-to") options.waves_to = number(value);
        else throw UsageError(name + " is unknown");
    }
    if (options.result.empty()) throw UsageError("--result is missing");
    if (options.memory.size == 0) throw UsageError("--size is missing");
    if (options.memory.latency == 0) throw UsageError("--latency is at least 1");
    return options;
}

}  // namespace palquant
