/* A stand-in for the header of Triton's C API, which no wheel carries. */
#pragma once
#define TRITONSERVER_API_VERSION_MAJOR 1
#define TRITONSERVER_API_VERSION_MINOR 34
