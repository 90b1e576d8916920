// Registry of the Python module's bindings: every source file registers its own, so that adding a file needs no edit
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
