# Tells what the boot protocol handed over (Xen's `hvm_start_info`, version 1).

.set START_MAGIC, 0
.set START_MODULES, 12
.set START_MODULE_LIST, 16
.set START_COMMAND_LINE, 24
.set START_RSDP, 32
.set START_MEMORY_MAP, 40
.set START_MEMORY_MAP_ENTRIES, 48
.set MODULE_ADDRESS, 0
.set MODULE_SIZE, 8
.set MEMORY_MAP_ENTRY_SIZE, 24

guest_boot_information:
    fetch start_information, %ebx
    say text_magic
    movl START_MAGIC(%ebx), %eax
    call serial_put_hex
    say text_command_line
    movl START_COMMAND_LINE(%ebx), %esi
    call serial_put_text
    say text_rsdp
    movl START_RSDP(%ebx), %esi
    movl $8, %ecx
1:
    movb (%esi), %al
    incl %esi
    call serial_put_byte
    decl %ecx
    jnz 1b
    call boot_put_modules
    call boot_put_memory_map
    jmp power_off

# One line a module: its size and its first byte.
boot_put_modules:
    movl START_MODULE_LIST(%ebx), %edi
    movl START_MODULES(%ebx), %ecx
1:
    testl %ecx, %ecx
    jz 2f
    say text_module
    movl MODULE_SIZE(%edi), %eax
    call serial_put_hex
    movb $' ', %al
    call serial_put_byte
    movl MODULE_ADDRESS(%edi), %esi
    movb (%esi), %al
    call serial_put_hex_byte
    addl $32, %edi
    decl %ecx
    jmp 1b
2:
    ret

# One line an entry: address, size and type.
boot_put_memory_map:
    movl START_MEMORY_MAP(%ebx), %edi
    movl START_MEMORY_MAP_ENTRIES(%ebx), %ecx
1:
    testl %ecx, %ecx
    jz 2f
    say text_memory
    movl 4(%edi), %eax
    call serial_put_hex
    movl 0(%edi), %eax
    call serial_put_hex
    movb $' ', %al
    call serial_put_byte
    movl 12(%edi), %eax
    call serial_put_hex
    movl 8(%edi), %eax
    call serial_put_hex
    movb $' ', %al
    call serial_put_byte
    movb 16(%edi), %al
    call serial_put_hex_byte
    addl $MEMORY_MAP_ENTRY_SIZE, %edi
    decl %ecx
    jmp 1b
2:
    call serial_end_line
    ret

text_magic: .asciz "magic "
text_command_line: .asciz "\ncommand line "
text_rsdp: .asciz "\nrsdp "
text_module: .asciz "\nmodule "
text_memory: .asciz "\nmemory "
