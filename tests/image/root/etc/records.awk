# Reads records and prints how many are whole, the check of the last of these, and how many lines there are. `dots` is what a
# record ends with.
# A record's check follows from its number and the check before: none can be missing, none can stand for another.
BEGIN { check = 1; intact = 0; last = 1 }
{
    check = (check * 16807 + NR) % 2147483647
    if (intact == NR - 1 && $0 == sprintf("record %08d %010d", NR, check) dots) { intact = NR; last = check }
}
END { print intact, last, NR }
