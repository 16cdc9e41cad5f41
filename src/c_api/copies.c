/* Memory of a request's own: arrays that no kernel can walk as they lie, and a dx that nobody asked for. */
#include <stdlib.h>

#include "c_api/request.h"
#include "driver/plan.h"

enum { LINE = 64 };

int bn_request_spare_dx(bn_request *r)
{
    bn_tensor *dx = &r->arg[BN_ARG_DX];
    uint64_t begin, end;
    char *memory;
    if (!(r->passes & BN_INPUT_GRAD) || bn_has(r, BN_ARG_DX)) return 1;
    *dx = r->arg[BN_ARG_DRESIDUAL];
    dx->name = "dx";
    r->given |= 1u << BN_ARG_DX; /* but not written: nobody gets it */
    bn_tensor_span(dx, &begin, &end);
    memory = malloc(end - begin + LINE);
    if (!memory) return 0;
    r->copies = memory;
    memory += LINE - (uintptr_t)memory % LINE; /* as far from an aligned address as dresidual is */
    dx->data = memory + ((uint64_t)(uintptr_t)dx->data - begin);
    return 1;
}

int bn_request_conform(bn_request *r, bn_tensor *originals)
{
    int n = 0;
    uint64_t bytes = 0;
    char *memory;
    for (int k = 0; k < BN_NLIKE; k++) {
        originals[k] = r->arg[k];
        if (!bn_takes_part(r, k)) continue;
        n++;
        bytes = ((uint64_t)r->arg[k].size * r->arg[k].itemsize + LINE - 1) / LINE * LINE;
    }
    free(r->copies); /* the spare dx: it is among those that are made now */
    r->copies = memory = malloc(n * bytes + LINE);
    if (!memory) return 0;
    memory += LINE - (uintptr_t)memory % LINE;
    for (int k = 0; k < BN_NLIKE; k++) {
        if (!bn_takes_part(r, k)) continue;
        bn_tensor_c_order(&r->arg[k]);
        r->arg[k].data = memory;
        memory += bytes;
        if (k != BN_ARG_DX && k != BN_ARG_DRESIDUAL && !((r->written >> k) & 1))
            bn_tensor_copy(&r->arg[k], &originals[k]);
    }
    return 1;
}

void bn_request_deliver(const bn_request *r, const bn_tensor *originals)
{
    for (int k = 0; k < BN_NLIKE; k++)
        if (bn_takes_part(r, k) && ((r->written >> k) & 1)) bn_tensor_copy(&originals[k], &r->arg[k]);
}

void bn_request_free(bn_request *r)
{
    free(r->copies);
    r->copies = NULL;
}
