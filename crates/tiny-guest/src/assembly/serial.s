# The serial port at 0x3F8, polled: bytes, texts and hexadecimal numbers.

.set SERIAL_DATA, 0x3f8
.set SERIAL_LINE_STATUS, 0x3fd
.set LINE_STATUS_DATA_READY, 1 << 0
.set LINE_STATUS_TRANSMITTER_EMPTY, 1 << 5

# Writes AL. Changes no register.
serial_put_byte:
    pushl %edx
    pushl %eax
    movw $SERIAL_LINE_STATUS, %dx
1:
    inb %dx, %al
    testb $LINE_STATUS_TRANSMITTER_EMPTY, %al
    jz 1b
    popl %eax
    movw $SERIAL_DATA, %dx
    outb %al, %dx
    popl %edx
    ret

# Waits for a byte and returns it in AL.
serial_get_byte:
    pushl %edx
    movw $SERIAL_LINE_STATUS, %dx
1:
    inb %dx, %al
    testb $LINE_STATUS_DATA_READY, %al
    jz 1b
    movw $SERIAL_DATA, %dx
    inb %dx, %al
    popl %edx
    ret

# Writes the zero-terminated text at ESI; leaves ESI after it.
serial_put_text:
    pushl %eax
1:
    movb (%esi), %al
    incl %esi
    testb %al, %al
    jz 2f
    call serial_put_byte
    jmp 1b
2:
    popl %eax
    ret

# Writes AL as two hexadecimal digits. Changes no register.
serial_put_hex_byte:
    pushl %eax
    pushl %eax
    shrb $4, %al
    call serial_put_hex_digit
    popl %eax
    call serial_put_hex_digit
    popl %eax
    ret

# Writes the low four bits of AL as a digit; changes AL.
serial_put_hex_digit:
    andb $0xf, %al
    addb $'0', %al
    cmpb $'9', %al
    jbe serial_put_byte
    addb $('a' - '0' - 10), %al
    jmp serial_put_byte

# Writes EAX as eight hexadecimal digits. Changes no register.
serial_put_hex:
    pushl %ecx
    movl $4, %ecx
1:
    roll $8, %eax
    call serial_put_hex_byte
    decl %ecx
    jnz 1b
    popl %ecx
    ret

# Writes ECX bytes at ESI in hexadecimal.
serial_put_hex_bytes:
    pushl %eax
1:
    movb (%esi), %al
    incl %esi
    call serial_put_hex_byte
    decl %ecx
    jnz 1b
    popl %eax
    ret

# Ends the line.
serial_end_line:
    pushl %eax
    movb $'\n', %al
    call serial_put_byte
    popl %eax
    ret
