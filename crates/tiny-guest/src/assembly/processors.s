# Starts all other processors, counts them and lists all (INIT and start-up messages through the local APIC).

.set APIC_SPURIOUS_VECTOR, 0xfee000f0
.set APIC_ENABLED, 0x1ff
.set APIC_COMMAND, 0xfee00300
.set APIC_INIT_OTHERS, 0x000c4500
.set APIC_START_OTHERS, 0x000c4600
.set START_PAGE, 0x90
.set START_ADDRESS, START_PAGE << 12
.set START_COUNTER, START_ADDRESS + 0x800
# A byte for each APIC id, set by the processor whose it is.
.set START_IDS, START_ADDRESS + 0x900
.set APIC_IDS, 256
.set CPUID_FEATURES, 1

# Powers off when as many processors as the count says have come up.
guest_processors:
    movl $0, START_COUNTER
    movl $START_IDS, %edi
    movl $APIC_IDS, %ecx
    xorl %eax, %eax
    cld
    rep stosb
    movl $CPUID_FEATURES, %eax
    cpuid
    shrl $24, %ebx
    movb $1, START_IDS(%ebx)
    address processors_start, %esi
    movl $START_ADDRESS, %edi
    movl $(processors_start_end - processors_start), %ecx
1:
    movb (%esi), %al
    movb %al, (%edi)
    incl %esi
    incl %edi
    decl %ecx
    jnz 1b
    movl $APIC_ENABLED, APIC_SPURIOUS_VECTOR
    movl $APIC_INIT_OTHERS, APIC_COMMAND
    movl $(APIC_START_OTHERS | START_PAGE), APIC_COMMAND
    fetch parameter_count, %ecx
2:
    pause
    movl START_COUNTER, %eax
    incl %eax
    cmpl %ecx, %eax
    jb 2b
    say text_processors
    call serial_put_hex_byte
    call serial_end_line
    say text_ids
    xorl %ebx, %ebx
3:
    cmpb $0, START_IDS(%ebx)
    je 4f
    movb $' ', %al
    call serial_put_byte
    movb %bl, %al
    call serial_put_hex_byte
4:
    incl %ebx
    cmpl $APIC_IDS, %ebx
    jb 3b
    call serial_end_line
    jmp power_off

# Copied to START_ADDRESS, where the other processors begin in real mode.
.code16
processors_start:
    cli
    movw $(START_ADDRESS >> 4), %ax
    movw %ax, %ds
    movl $CPUID_FEATURES, %eax
    cpuid
    shrl $24, %ebx
    movb $1, (START_IDS - START_ADDRESS)(%bx)
    lock incl (START_COUNTER - START_ADDRESS)
1:
    hlt
    jmp 1b
processors_start_end:
.code32

text_processors: .asciz "processors "
text_ids: .asciz "ids"
