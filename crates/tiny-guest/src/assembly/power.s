# Guests that say something and then end, or do not, in every way a machine can.

.set ACPI_SLEEP_PORT, 0x600
.set ACPI_POWER_OFF, 0x34
.set ACPI_RESET, 1
.set KEYBOARD_COMMAND_PORT, 0x64
.set KEYBOARD_RESET, 0xfe
.set POWER_BUTTON, 1 << 0
.set PANIC_PORT, 0x505
.set PANICKED, 1 << 0
.set NMI_VECTOR, 2
# Present, for privilege 0, 32 bits.
.set INTERRUPT_GATE, 0x8e00

power_off:
    movw $ACPI_SLEEP_PORT, %dx
    movb $ACPI_POWER_OFF, %al
    outb %al, %dx
# Waits for the end without using a CPU.
wait_forever:
    cli
1:
    hlt
    jmp 1b

# Writes its message as often as asked for, then powers off.
guest_hello:
    fetch parameter_count, %ecx
1:
    testl %ecx, %ecx
    jz power_off
    fetch parameter_message, %esi
    call serial_put_text
    decl %ecx
    jmp 1b

# Writes its message and stands still.
guest_last_words:
    fetch parameter_message, %esi
    call serial_put_text
    jmp wait_forever

# Writes its message, says that it panicked and stands still.
guest_panic:
    fetch parameter_message, %esi
    call serial_put_text
    movw $PANIC_PORT, %dx
    movb $PANICKED, %al
    outb %al, %dx
    jmp wait_forever

guest_spin:
    say text_ready
1:
    jmp 1b

guest_idle:
    say text_ready
    jmp wait_forever

guest_acpi_reset:
    say text_ready
    movw $ACPI_SLEEP_PORT, %dx
    movb $ACPI_RESET, %al
    outb %al, %dx
    jmp wait_forever

guest_keyboard_reset:
    say text_ready
    movb $KEYBOARD_RESET, %al
    outb %al, $KEYBOARD_COMMAND_PORT
    jmp wait_forever

# An invalid instruction without an interrupt table: neither it nor the double fault after it has a handler.
guest_triple_fault:
    say text_ready
    pushl $0
    pushl $0
    lidt (%esp)
    ud2

# Goes on where there is no code.
guest_stray:
    say text_ready
    fetch parameter_address, %eax
    jmp *%eax

# Polls the event register until the power button is pressed. Reading clears the register.
guest_power_button:
    say text_ready
    fetch parameter_address, %ebx
1:
    pause
    movl (%ebx), %eax
    testl $POWER_BUTTON, %eax
    jz 1b
    say text_bye
    jmp power_off

# As above, but obeys only when it was pressed as often as asked for. Says each press that it has read.
guest_presses:
    say text_ready
presses_poll:
    fetch parameter_address, %ebx
    fetch parameter_count, %ecx
1:
    pause
    movl (%ebx), %eax
    testl $POWER_BUTTON, %eax
    jz 1b
    say text_press
    decl %ecx
    jnz 1b
    say text_bye
    jmp power_off

# As above, but does not read the register before something was typed.
guest_late_presses:
    say text_ready
    call serial_get_byte
    jmp presses_poll

# Returns what it reads on the serial port, up to a `q`.
guest_echo:
    say text_ready
1:
    call serial_get_byte
    cmpb $'q', %al
    je power_off
    call serial_put_byte
    jmp 1b

# As above without an end, and writes it to the port in the parameter first.
guest_relay:
    say text_ready
1:
    call serial_get_byte
    fetch parameter_address, %edx
    outb %al, %dx
    call serial_put_byte
    jmp 1b

# Takes a non-maskable interrupt: the third gate of a table that the stack holds, as others stay unused.
guest_nmi:
    address nmi_handler, %eax
    xorl %edx, %edx
    movw %cs, %dx
    shll $16, %edx
    movw %ax, %dx
    movl $0, %ecx
    movw $INTERRUPT_GATE, %cx
    xorw %ax, %ax
    orl %ecx, %eax
    subl $32, %esp
    movl %edx, NMI_VECTOR * 8(%esp)
    movl %eax, NMI_VECTOR * 8 + 4(%esp)
    movl %esp, %ebx
    pushl %ebx
    subl $2, %esp
    movw $(NMI_VECTOR * 8 + 7), (%esp)
    lidt (%esp)
    addl $6, %esp
    say text_ready
    jmp wait_forever

nmi_handler:
    say text_nmi
    jmp power_off

text_nmi: .asciz "nmi\n"
text_ready: .asciz "ready\n"
text_bye: .asciz "bye\n"
text_press: .asciz "press\n"
