// What the Python module consists of: every source file registers its own bindings, so that a new one needs no edit
// elsewhere.
#pragma once

#include <nanobind/nanobind.h>

#include <vector>

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

}  // namespace softmaxkit
