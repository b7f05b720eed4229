/* void switch_stack(void **from, void *to): what a call must preserve is pushed on the old stack and popped from the new.
 * The floating-point control words are not switched: nothing here changes them. */

#if defined __x86_64__

        .text
        .globl  switch_stack
        .type   switch_stack, @function
        .p2align 4
switch_stack:
        .cfi_startproc
        endbr64
        pushq   %rbp
        pushq   %rbx
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %r15
        movq    %rsp, (%rdi)
        movq    %rsi, %rsp
        popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %rbx
        popq    %rbp
        popq    %rcx                    /* not ret: its prediction belongs to the other stack */
        jmp     *%rcx
        .cfi_endproc
        .size   switch_stack, . - switch_stack

        .globl  switch_entry
        .type   switch_entry, @function
switch_entry:
        .cfi_startproc
        .cfi_undefined rip              /* a backtrace ends here */
        endbr64
        movq    %r12, %rdi
        xorl    %ebp, %ebp
        call    *%r13
        ud2
        .cfi_endproc
        .size   switch_entry, . - switch_entry

#elif defined __aarch64__

        .text
        .globl  switch_stack
        .type   switch_stack, %function
        .p2align 4
switch_stack:
        .cfi_startproc
        stp     x29, x30, [sp, #-160]!
        stp     x19, x20, [sp, #16]
        stp     x21, x22, [sp, #32]
        stp     x23, x24, [sp, #48]
        stp     x25, x26, [sp, #64]
        stp     x27, x28, [sp, #80]
        stp     d8, d9, [sp, #96]
        stp     d10, d11, [sp, #112]
        stp     d12, d13, [sp, #128]
        stp     d14, d15, [sp, #144]
        mov     x2, sp
        str     x2, [x0]
        mov     sp, x1
        ldp     x19, x20, [sp, #16]
        ldp     x21, x22, [sp, #32]
        ldp     x23, x24, [sp, #48]
        ldp     x25, x26, [sp, #64]
        ldp     x27, x28, [sp, #80]
        ldp     d8, d9, [sp, #96]
        ldp     d10, d11, [sp, #112]
        ldp     d12, d13, [sp, #128]
        ldp     d14, d15, [sp, #144]
        ldp     x29, x30, [sp], #160
        ret
        .cfi_endproc
        .size   switch_stack, . - switch_stack

        .globl  switch_entry
        .type   switch_entry, %function
switch_entry:
        .cfi_startproc
        .cfi_undefined x30              /* a backtrace ends here */
        mov     x0, x19
        mov     x29, xzr
        blr     x20
        brk     #0
        .cfi_endproc
        .size   switch_entry, . - switch_entry

#else
#error "switch.S speaks x86-64 and aarch64"
#endif

        .section .note.GNU-stack, "", %progbits
