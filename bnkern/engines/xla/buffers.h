// XLA's buffers as the arrays that bnkern.h asks for, one mapped element of vmap at a time.
#ifndef BNKERN_JAX_BUFFERS_H
#define BNKERN_JAX_BUFFERS_H

#include <algorithm>
#include <vector>

#include "bnkern.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace
{

// What is known when the program is traced: bnkern.engines.xla.passes.Spec.
struct Spec {
    int64_t kind, passes, axis, ndim, activation, count, frozen, dresidual, share;
    double eps, parameter, momentum, correction;
};

// A buffer without the axes of vmap, and how to get from one mapped element to the next.
struct Array {
    int name = -1;
    char *data = nullptr;        // of the first mapped element
    bnkern_dtype dtype{};        // of the elements
    bool rounded = false;        // a vector of another dtype than float64
    std::vector<int64_t> mapped; // lengths of the axes of vmap
    std::vector<int64_t> shape;  // the array's own
    size_t rank = 0;             // of the array's own axes
    int64_t size = 1, bytes = 0; // elements; bytes of one mapped element

    bnkern_tensor at(const std::vector<int64_t> &place)
    {
        int64_t index = 0;
        for (size_t k = 0; k < mapped.size(); k++) index = index * mapped[k] + (mapped[k] > 1 ? place[k] : 0);
        bnkern_tensor t{};
        t.data = data + index * bytes;
        t.device.device_type = 1;
        t.ndim = (int32_t)shape.size();
        t.dtype = dtype;
        t.shape = shape.data();
        return t;
    }
};

bool like_x(int name)
{
    return name == X || name == DY || name == RESIDUAL || name == Y || name == OUT || name == DRESIDUAL;
}
bool of_parts(const Spec &s, int name)
{
    return (s.kind == MERGE && (name == MEAN || name == VAR)) ||
           (s.kind == ADD && (name == SUM_DY || name == SUM_DY_XHAT));
}

bool scalar(int name) { return name == MOMENTUM || name == NUM_BATCHES || name == COUNT; }

bnkern_dtype dtype_of(ffi::DataType type)
{
    switch (type) {
    case ffi::DataType::F16: return {2, 16, 1};
    case ffi::DataType::BF16: return {4, 16, 1};
    case ffi::DataType::F32: return {2, 32, 1};
    case ffi::DataType::F64: return {2, 64, 1};
    case ffi::DataType::S32: return {0, 32, 1};
    case ffi::DataType::S64: return {0, 64, 1};
    case ffi::DataType::U32: return {1, 32, 1};
    case ffi::DataType::U64: return {1, 64, 1};
    default: return {255, 8, 1};
    }
}

size_t own_rank(const Spec &s, int name)
{
    return like_x(name) ? (size_t)s.ndim : scalar(name) ? 0 : 1 + of_parts(s, name);
}

Array array_of(const Spec &s, int name, const ffi::AnyBuffer &buffer)
{
    Array a;
    const auto dims = buffer.dimensions();
    const bool bits = !like_x(name) && !scalar(name) && buffer.element_type() == ffi::DataType::U32;
    size_t own = own_rank(s, name);
    size_t end = dims.size() - std::min<size_t>(bits, dims.size());
    a.name = name;
    a.data = static_cast<char *>(buffer.untyped_data());
    a.dtype = bits ? bnkern_dtype{2, 64, 1} : dtype_of(buffer.element_type());
    a.rounded = a.dtype.bits != 64;
    a.rank = own = std::min(own, end);
    a.mapped.assign(dims.begin(), dims.begin() + (end - own));
    a.shape.assign(dims.begin() + (end - own), dims.begin() + end);
    for (int64_t n : a.shape) a.size *= n;
    a.bytes = a.size * a.dtype.bits / 8;
    return a;
}

} // namespace

#endif
