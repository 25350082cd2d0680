/* version.h - what --version says of both programs, and GetModel of the daemon. */
#ifndef CORE_VERSION_H
#define CORE_VERSION_H

#define OUTRIDER_VERSION "0.1.0"

#endif
