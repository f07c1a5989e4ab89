# A virtual machine in one sector: its heart beats on every tick of the PC's clock (18.2 a second).
#
# A beat writes a counter, little endian, from 1 on, to the second sector of the disk through the BIOS, and then
# prints to the first serial port: '.' when the write was acknowledged, 'E' when it failed. So the serial line tells
# what the VM was told, and the disk tells what is true. Built by heartbeat.py.

        .code16
        .set    COM1, 0x3f8             # data register; the line status register is 5 above
        .set    TICKS, 0x46c            # BIOS data area: ticks since midnight
        .set    SECTOR, 0x8000          # the sector that is written; its first 4 bytes are the counter

        .globl  _start
_start:
        ljmp    $0, $begin
begin:
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $_start, %sp
        cld
        movb    %dl, drive              # the BIOS says which disk it started from

        movw    $SECTOR, %di            # a clean sector: the memory may hold anything
        movw    $256, %cx
        rep stosw

beat:
        incl    SECTOR
        movw    $1, request + 2         # after an error the BIOS says here how many sectors it wrote: none
        movw    $request, %si
        movw    $0x4300, %ax            # extended write, without verify
        movb    drive, %dl
        int     $0x13
        movb    $'.', %al
        jnc     report
        movb    $'E', %al

report:
        movb    %al, %bl
        movw    $COM1 + 5, %dx
full:   inb     %dx, %al
        testb   $0x20, %al              # room in the transmitter?
        jz      full
        movb    %bl, %al
        movw    $COM1, %dx
        outb    %al, %dx

        movl    TICKS, %ebx
wait:   hlt
        cmpl    TICKS, %ebx
        je      wait
        jmp     beat

drive:  .byte   0
        .balign 4
request:
        .byte   16, 0                   # size of this packet
        .word   1                       # sectors
        .word   SECTOR, 0               # offset, segment
        .quad   1                       # first sector on the disk

        .org    510
        .word   0xaa55
