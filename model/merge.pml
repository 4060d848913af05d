/* The algebra of the merge: any three rows, in any order and any number, end in the same row. Exhaustive over two values of
 * each part of a row, and all four of liveness. Every comparison of two values has one of three outcomes, so two values
 * and three rows show every case of a comparison of two rows. */
#include "rules.h"

typedef Row { byte g; byte i; byte n; byte l; byte c }

Row a, b, c, ab, bc, ba, aa, left, right;
byte x;

inline pick(row) {
    select(x : 0 .. 1); row.g = x;
    select(x : 0 .. 1); row.i = x;
    select(x : 0 .. 1); row.n = x;
    select(x : ALIVE .. LEFT); row.l = x;
    select(x : 0 .. 1); row.c = x
}

inline copy(to, from) {
    to.g = from.g; to.i = from.i; to.n = from.n; to.l = from.l; to.c = from.c
}

inline merge(to, held, heard) {
    if
    :: REPLACES(heard.g, heard.i, heard.n, heard.l, heard.c, held.g, held.i, held.n, held.l, held.c) -> copy(to, heard)
    :: else -> copy(to, held)
    fi
}

inline same(one, two) {
    assert(one.g == two.g && one.i == two.i && one.n == two.n && one.l == two.l && one.c == two.c)
}

init {
    atomic {
        pick(a); pick(b); pick(c);
        merge(ab, a, b); merge(ba, b, a); same(ab, ba);          /* commutative */
        merge(bc, b, c); merge(left, ab, c); merge(right, a, bc); same(left, right);  /* associative */
        merge(aa, a, a); same(aa, a);                            /* idempotent */
        merge(left, ab, a); same(left, ab);                      /* an old row changes nothing */
        if                                                       /* a later life or record replaces any verdict */
        :: a.g > b.g || (a.g == b.g && a.i > b.i) -> same(ab, a)
        :: a.g == b.g && a.i == b.i && a.n > b.n -> same(ab, a)
        :: a.g == b.g && a.i == b.i && a.n == b.n && a.l > b.l -> same(ab, a)  /* and a verdict only worsens */
        :: else
        fi
    }
}
