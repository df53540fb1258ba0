// Threads over independent pieces of work: contiguous ranges, so that the result does not depend on their number.
#pragma once

#include <algorithm>
#include <cstddef>
#include <future>
#include <vector>

namespace quantpress {

// Calls work(first, last) on up to `threads` ranges that together are [0, count), and waits for them.
template <class Work> void parallel(std::size_t count, int threads, const Work &work) {
    const std::size_t parts = std::clamp<std::size_t>(threads, 1, std::max<std::size_t>(count, 1));
    std::vector<std::future<void>> others;
    for (std::size_t i = 1; i < parts; ++i)
        others.push_back(std::async(std::launch::async, work, count * i / parts, count * (i + 1) / parts));
    work(std::size_t{0}, count / parts);
    for (auto &other : others) other.get();
}

}  // namespace quantpress
