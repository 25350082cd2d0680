/* The served .proto files as protoc's FileDescriptorSet: what server reflection hands out. */
    .section .rodata
    .global proto__files
    .global proto__files_end
    .balign 16
proto__files:
    .incbin "files.fds"
proto__files_end:
    .byte 0
    .section .note.GNU-stack, "", %progbits
