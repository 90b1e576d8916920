// The parts of the Python module, a source file each.
#pragma once

#include <nanobind/nanobind.h>

void bind_attention(nanobind::module_& m);
void bind_rows(nanobind::module_& m);
void bind_integers(nanobind::module_& m);
