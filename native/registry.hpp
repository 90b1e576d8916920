// Registry of the Python module's bindings: every source file registers its own, so that adding a file needs no edit
// elsewhere.
#pragma once

#include <nanobind/nanobind.h>

#include <string>
#include <vector>

#include "halves.hpp"

namespace softmaxkit {

using Binding = void (*)(nanobind::module_&);

inline std::vector<Binding>& bindings() {
    static std::vector<Binding> all;  // in a function, so that it exists before the first file registers
    return all;
}

// A static of this type in a source file registers its bindings.
struct Registration {
    explicit Registration(Binding binding) { bindings().push_back(binding); }
};

// Calls bind(T{}, name) for all types T of numbers that floating-point kernels take, with their names in Python.
void for_all_types(const auto& bind) {
    bind(float{}, "float32");
    bind(bfloat16{}, "bfloat16");
    bind(float16{}, "float16");
}

}  // namespace softmaxkit
