// The handler that XLA calls for every call of the kernels in a JAX program: no Python, no GIL, any thread.
//
// bnkern.engines.xla.ffi puts an enum of the operands' and results' names (bnkern.engines.xla.passes.NAMES, upper case)
// and of the kinds in front of this file and compiles it at first use; bnkern_jax_set then hands over the functions of
// bnkern.h, so that it is linked against nothing. Buffers are dense, row-major and apart from each other: XLA sees to
// that. The buffers' leading axes are those of vmap: of length 1 where an operand is not mapped. One invocation goes
// through all mapped elements in order.
//
// A float64 comes as itself or as two uint32, its bits: the memory is the same.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "bnkern.h"
#include "buffers.h"
#include "xla/ffi/api/ffi.h"

namespace
{

const bnkern_api *bn = nullptr;
std::atomic<int> running_calls{0};

// One mapped element of a call: its operands and results by name, memory for what nobody asked to see.
class Element
{
  public:
    Element(const Spec &spec, std::vector<Array> &operands, std::vector<Array> &results,
            const std::vector<int64_t> &place)
        : s(spec), results(results), given(NAMES), tensors(NAMES), wanted(results.size())
    {
        for (Array &a : operands) tensors[a.name] = a.at(place), given[a.name] = true;
        for (size_t k = 0; k < results.size(); k++) {
            wanted[k] = results[k].at(place);
            if (!like_x(results[k].name)) channels = results[k].size;
        }
        for (Array &a : operands)
            if (like_x(a.name)) channels = a.shape[s.axis];
    }

    ffi::Error run(int threads);

  private:
    const Spec &s;
    std::vector<Array> &results;
    std::vector<bool> given;
    std::vector<bnkern_tensor> tensors; // of the operands
    std::vector<bnkern_tensor> wanted;  // of the results
    std::vector<std::vector<double>> scratch;
    std::vector<bnkern_tensor> held;
    int64_t channels = 0;
    char words[512] = "";

    const bnkern_tensor *operand(int name) { return given[name] ? &tensors[name] : nullptr; }
    const bnkern_tensor *result(int name)
    {
        for (size_t k = 0; k < wanted.size(); k++)
            if (results[k].name == name) return &wanted[k];
        return nullptr;
    }

    bnkern_tensor numbers(double *memory)
    {
        bnkern_tensor t{};
        t.data = memory;
        t.device.device_type = 1;
        t.ndim = 1;
        t.dtype = {2, 64, 1};
        t.shape = &channels;
        return t;
    }

    // A float64 vector for what is computed under this name: a result's memory, or else our own.
    bnkern_tensor exact(int name)
    {
        for (size_t k = 0; k < wanted.size(); k++)
            if (results[k].name == name && !results[k].rounded) return wanted[k];
        scratch.emplace_back(channels);
        return numbers(scratch.back().data());
    }

    // Delivers two float64 vectors to every result of their names: copied, or rounded once.
    int deliver(int first, const bnkern_tensor &a, int second, const bnkern_tensor &b);
    int round_to(const bnkern_tensor &from, const bnkern_tensor &to);
    int update_running(const bnkern_tensor *mean, const bnkern_tensor *var, int64_t count);
    void merge(double *mean, double *var, int64_t parts);
    bool factor(double *weight);
    double number(int name);
    void copy_running();
};

double Element::number(int name)
{
    const bnkern_tensor &t = tensors[name];
    if (t.dtype.code == 0 || t.dtype.code == 1) {
        if (t.dtype.bits == 64) return (double)*static_cast<int64_t *>(t.data);
        return t.dtype.code ? (double)*static_cast<uint32_t *>(t.data) : (double)*static_cast<int32_t *>(t.data);
    }
    return t.dtype.bits == 64 ? *static_cast<double *>(t.data) : (double)*static_cast<float *>(t.data);
}

// The weight of this batch in the running statistics. What is traced has a value only here.
bool Element::factor(double *weight)
{
    if (given[NUM_BATCHES]) {
        const double n = number(NUM_BATCHES);
        *weight = 1 / n;
        if (n >= 1) return true;
        std::snprintf(words, sizeof words, "num_batches: expected an integer >= 1, got %g", n);
        return false;
    }
    *weight = given[MOMENTUM] ? number(MOMENTUM) : s.momentum;
    if (std::isfinite(*weight)) return true;
    std::snprintf(words, sizeof words, "momentum: expected a finite number, got %g", *weight);
    return false;
}

void Element::copy_running()
{
    for (int name : {RUNNING_MEAN, RUNNING_VAR})
        std::memcpy(result(name)->data, tensors[name].data, (size_t)channels * tensors[name].dtype.bits / 8);
}

// running = (1 - 1) * -0.0 + 1 * value: the value itself, rounded once to the buffer's dtype by the library.
int Element::round_to(const bnkern_tensor &from, const bnkern_tensor &to)
{
    const size_t step = to.dtype.bits / 8;
    std::memset(to.data, 0, (size_t)channels * step);
    for (int64_t c = 0; c < channels; c++) static_cast<unsigned char *>(to.data)[(c + 1) * step - 1] = 0x80;
    std::vector<double> other(channels), running(channels);
    const bnkern_tensor unused = numbers(other.data()), sink = numbers(running.data());
    bnkern_call call = BNKERN_CALL_INIT;
    call.momentum = 1, call.correction = 0, call.count = 2;
    call.running_mean = &to, call.mean = &from, call.running_var = &sink, call.var = &unused;
    return bn->update_running(&call, words, sizeof words);
}

int Element::deliver(int first, const bnkern_tensor &a, int second, const bnkern_tensor &b)
{
    for (size_t k = 0; k < wanted.size(); k++) {
        if (results[k].name != first && results[k].name != second) continue;
        const bnkern_tensor &from = results[k].name == first ? a : b;
        float *narrow = static_cast<float *>(wanted[k].data);
        const double *values = static_cast<double *>(from.data);
        if (wanted[k].data == from.data) continue;
        if (!results[k].rounded) {
            std::memcpy(wanted[k].data, from.data, (size_t)channels * sizeof(double));
        } else if (wanted[k].dtype.bits == 32) {
            for (int64_t c = 0; c < channels; c++) narrow[c] = (float)values[c];
        } else if (int status = round_to(from, wanted[k])) {
            return status;
        }
    }
    return BNKERN_OK;
}

// Chan, Golub and LeVeque (1983) for parts of one count: the arithmetic of bnkern.engines.vectors.merge, step by step.
void Element::merge(double *mean, double *var, int64_t parts)
{
    const double *means = static_cast<double *>(tensors[MEAN].data), *vars = static_cast<double *>(tensors[VAR].data);
    const double n = (double)s.count, total = (double)(s.count * parts);
    for (int64_t c = 0; c < channels; c++) {
        if (parts == 1) {
            mean[c] = means[c], var[c] = vars[c];
            continue;
        }
        const double pivot = std::isfinite(means[c]) ? means[c] : 0.0;
        double moved = 0, m2 = 0;
        for (int64_t k = 0; k < parts; k++) moved += n * (means[k * channels + c] - pivot);
        const double m = pivot + moved / total;
        for (int64_t k = 0; k < parts; k++) {
            const double apart = means[k * channels + c] - m;
            m2 += n * (vars[k * channels + c] + apart * apart);
        }
        mean[c] = m, var[c] = m2 / total;
    }
}

int Element::update_running(const bnkern_tensor *mean, const bnkern_tensor *var, int64_t count)
{
    bnkern_call call = BNKERN_CALL_INIT;
    if (!factor(&call.momentum)) return BNKERN_BAD_VALUE;
    copy_running();
    call.correction = s.correction, call.count = count;
    call.mean = mean, call.var = var;
    call.running_mean = result(RUNNING_MEAN), call.running_var = result(RUNNING_VAR);
    return bn->update_running(&call, words, sizeof words);
}

ffi::Error Element::run(int threads)
{
    int status = BNKERN_OK;
    bnkern_call call = BNKERN_CALL_INIT;
    call.axis = (int32_t)s.axis, call.activation = (int32_t)s.activation, call.eps = s.eps, call.slope = s.parameter;
    call.threads = threads, call.flags = s.frozen ? BNKERN_FROZEN : 0;
    call.count = given[COUNT] ? (int64_t)number(COUNT) : s.count;
    call.x = operand(X), call.dy = operand(DY), call.weight = operand(WEIGHT), call.bias = operand(BIAS);
    call.mean = operand(MEAN), call.var = operand(VAR);
    const bool updated = given[RUNNING_MEAN];

    if (s.kind == MERGE || s.kind == ADD) {
        const int first = s.kind == MERGE ? MEAN : SUM_DY, second = s.kind == MERGE ? VAR : SUM_DY_XHAT;
        const bnkern_tensor a = exact(first), b = exact(second);
        const int64_t parts = tensors[first].shape[0];
        if (s.kind == MERGE) {
            merge(static_cast<double *>(a.data), static_cast<double *>(b.data), parts);
            if (updated) status = update_running(&a, &b, s.count * parts);
        } else {
            for (int name : {first, second}) {
                const double *values = static_cast<double *>(tensors[name].data);
                double *sum = static_cast<double *>((name == first ? a : b).data);
                std::copy(values, values + channels, sum);
                for (int64_t k = channels; k < parts * channels; k++) sum[k % channels] += values[k];
            }
        }
        if (!status) status = deliver(first, a, second, b);
    } else if (s.passes & STATS) {
        const bnkern_tensor mean = exact(MEAN), var = exact(VAR);
        call.mean = &mean, call.var = &var, call.y = result(OUT), call.residual = operand(RESIDUAL);
        call.correction = s.correction;
        if (updated) {
            if (!factor(&call.momentum)) return ffi::Error(ffi::ErrorCode::kInvalidArgument, words);
            copy_running();
            call.running_mean = result(RUNNING_MEAN), call.running_var = result(RUNNING_VAR);
        }
        status = (s.passes & NORMALISE ? bn->train : bn->stats)(&call, words, sizeof words);
        if (!status) status = deliver(MEAN, mean, VAR, var);
    } else if (s.passes & NORMALISE) {
        call.running_mean = operand(MEAN), call.running_var = operand(VAR);
        call.residual = operand(RESIDUAL), call.y = result(OUT);
        status = bn->inference(&call, words, sizeof words);
    } else if (s.passes == REDUCE) {
        const bnkern_tensor sum_dy = exact(SUM_DY), sum_dy_xhat = exact(SUM_DY_XHAT);
        call.y = operand(Y), call.sum_dy = &sum_dy, call.sum_dy_xhat = &sum_dy_xhat;
        status = bn->reduce(&call, words, sizeof words);
        if (!status) status = deliver(SUM_DY, sum_dy, SUM_DY_XHAT, sum_dy_xhat);
    } else {
        call.y = operand(Y), call.dx = result(OUT), call.dresidual = result(DRESIDUAL);
        call.dweight = result(SUM_DY_XHAT), call.dbias = result(SUM_DY);
        call.sum_dy = operand(SUM_DY), call.sum_dy_xhat = operand(SUM_DY_XHAT);
        status = (s.passes & REDUCE || s.frozen ? bn->backward : bn->apply)(&call, words, sizeof words);
    }
    if (status == BNKERN_OK) return ffi::Error::Success();
    return ffi::Error(
        status == BNKERN_NO_MEMORY ? ffi::ErrorCode::kResourceExhausted : ffi::ErrorCode::kInvalidArgument, words);
}

// Calls that run at the same time, on threads of XLA's, share the processors instead of each taking all of them.
struct Share {
    int threads;
    explicit Share(int64_t devices)
    {
        const int others = running_calls.fetch_add(1);
        const int64_t most = bn->num_threads() / std::max<int64_t>(devices, 1) / (others + 1);
        threads = (int)std::max<int64_t>(most, 1);
    }
    ~Share() { running_calls.fetch_sub(1); }
};

// XLA hands out memory without pages, and a fault for each 4 kB of a large result costs four times the kernel: huge pages
// are asked for, as bnkern's own pool does. No matter if that is refused.
void ask_for_huge_pages(void *data, size_t bytes)
{
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t page = 4096, least = (uintptr_t)4 << 20;
    const uintptr_t first = ((uintptr_t)data + page - 1) & ~(page - 1), last = ((uintptr_t)data + bytes) & ~(page - 1);
    if (bytes >= least) madvise((void *)first, last - first, MADV_HUGEPAGE);
#endif
}

ffi::Error unknown()
{
    return ffi::Error(ffi::ErrorCode::kInvalidArgument, "bnkern: expected a call of bnkern.jax of this version");
}

// Anyone may call a registered handler: what bnkern.jax never sends is refused before memory is touched.
bool refused(const Spec &s, const std::vector<Array> &operands, const std::vector<Array> &results)
{
    const Array *model = nullptr;
    int64_t channels = -1;
    unsigned seen = 0, made = 0;
    if (results.empty() || s.ndim < 0 || s.kind < PASSES || s.kind > ADD) return true;
    for (const Array &a : operands) {
        seen |= 1u << a.name;
        if (like_x(a.name) && !model) model = &a;
        if (scalar(a.name) && (a.size != 1 || a.dtype.code > 2 || (a.dtype.code == 2 && a.dtype.bits < 32)))
            return true;
        if (a.rank != own_rank(s, a.name)) return true;
    }
    if (model && (s.axis < 0 || s.axis >= s.ndim)) return true;
    for (const Array &a : results) {
        made |= 1u << a.name;
        if (scalar(a.name) || a.rank != (like_x(a.name) ? (size_t)s.ndim : 1)) return true; // no axis of parts
        if (like_x(a.name)) continue;
        if (model ? a.size != model->shape[s.axis] : channels >= 0 && a.size != channels) return true;
        channels = a.size;
    }
    if (model) channels = model->shape[s.axis];
    for (const std::vector<Array> *arrays : {&operands, &results})
        for (const Array &a : *arrays) {
            if (a.mapped.size() != results[0].mapped.size()) return true;
            for (size_t k = 0; k < a.mapped.size(); k++)
                if (a.mapped[k] != results[0].mapped[k] && (a.mapped[k] != 1 || arrays == &results)) return true;
            if (like_x(a.name) || scalar(a.name)) continue;
            if (a.shape.back() != channels || a.dtype.code == 0 || a.dtype.code == 1 || a.dtype.code == 255)
                return true;
            if (of_parts(s, a.name) && arrays == &operands && (a.rounded || a.shape[0] < 1)) return true;
        }
    const auto both = [](int a, int b) { return 1u << a | 1u << b; };
    const unsigned running = both(RUNNING_MEAN, RUNNING_VAR);
    if ((seen & running) != (made & running) || ((seen & running) && (seen & running) != running)) return true;
    for (const Array &a : operands)
        for (const Array &b : results) // what is copied from the one to the other
            if (a.name == b.name && a.name != MEAN && a.name != VAR && a.name != SUM_DY && a.name != SUM_DY_XHAT &&
                a.bytes != b.bytes)
                return true;
    if (s.kind == MERGE) return (seen & both(MEAN, VAR)) != both(MEAN, VAR) || s.count < 1;
    if (s.kind == ADD) return (seen & both(SUM_DY, SUM_DY_XHAT)) != both(SUM_DY, SUM_DY_XHAT) || (seen & running);
    return !model;
}

ffi::Error call_elements(const Spec &s, ffi::RemainingArgs args, ffi::RemainingRets rets,
                         ffi::Span<const int32_t> names, ffi::Span<const int32_t> result_names)
{
    std::vector<Array> operands, results;
    for (int32_t name : names)
        if (name < 0 || name >= NAMES) return unknown();
    for (int32_t name : result_names)
        if (name < 0 || name >= NAMES) return unknown();
    for (size_t k = 0; k < args.size(); k++) {
        auto buffer = args.get<ffi::AnyBuffer>(k);
        if (buffer.has_error()) return buffer.error();
        operands.push_back(array_of(s, names[k], *buffer));
    }
    Spec of_results = s;
    of_results.kind = PASSES; // no result has an axis of parts
    for (size_t k = 0; k < rets.size(); k++) {
        auto buffer = rets.get<ffi::AnyBuffer>(k);
        if (buffer.has_error()) return buffer.error();
        results.push_back(array_of(of_results, result_names[k], **buffer));
        ask_for_huge_pages((*buffer)->untyped_data(), (*buffer)->size_bytes());
    }
    if (refused(s, operands, results)) return unknown();
    const std::vector<int64_t> mapped = results[0].mapped;
    std::vector<int64_t> place(mapped.size(), 0);
    Share share(s.share);
    for (;;) {
        ffi::Error error = Element(s, operands, results, place).run(share.threads);
        if (error.failure()) return error;
        size_t k = mapped.size();
        while (k > 0 && ++place[k - 1] == mapped[k - 1]) place[--k] = 0;
        if (k == 0) return ffi::Error::Success();
    }
}

ffi::Error call(ffi::RemainingArgs args, ffi::RemainingRets rets, ffi::Span<const int32_t> operands,
                ffi::Span<const int32_t> results, ffi::Span<const int64_t> integers, ffi::Span<const double> reals)
{
    if (!bn) return ffi::Error(ffi::ErrorCode::kFailedPrecondition, "bnkern: the kernels were never handed over");
    if (operands.size() != args.size() || results.size() != rets.size() || integers.size() != 9 || reals.size() != 4)
        return unknown();
    const Spec s{integers[0], integers[1], integers[2], integers[3], integers[4], integers[5], integers[6],
                 integers[7], integers[8], reals[0],    reals[1],    reals[2],    reals[3]};
    try {
        return call_elements(s, args, rets, operands, results);
    } catch (const std::bad_alloc &) {
        return ffi::Error(ffi::ErrorCode::kResourceExhausted, "bnkern: no memory for numbers per channel");
    }
}

} // namespace

extern "C" __attribute__((visibility("default"))) void bnkern_jax_set(const bnkern_api *api) { bn = api; }

extern "C" __attribute__((visibility("default"))) XLA_FFI_Error *bnkern_jax_call(XLA_FFI_CallFrame *);
XLA_FFI_DEFINE_HANDLER_SYMBOL(bnkern_jax_call, call,
                              ffi::Ffi::Bind()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<ffi::Span<const int32_t>>("operands")
                                  .Attr<ffi::Span<const int32_t>>("results")
                                  .Attr<ffi::Span<const int64_t>>("integers")
                                  .Attr<ffi::Span<const double>>("reals"));
