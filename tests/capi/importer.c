/* The smallest extension module that imports bnkern's C API. */
#include <Python.h>

#include "bnkern.h"

static const bnkern_api *bn;

static PyObject *version(PyObject *module, PyObject *none)
{
    (void)module;
    (void)none;
    return PyUnicode_FromString(bn->version);
}

static PyMethodDef methods[] = {{"version", version, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {.m_base = PyModuleDef_HEAD_INIT, .m_name = "importer", .m_methods = methods};

PyMODINIT_FUNC PyInit_importer(void)
{
    bn = bnkern_import();
    return bn ? PyModule_Create(&definition) : NULL;
}
