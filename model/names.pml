/* One name, its holder A, and a newcomer B that wants it. See rules.h.
 *
 * OBSERVERS members know of A, and B and A have tables too. As in members.pml, the network is the set of everything that was
 * said. Anybody may suspect A at any time, for long or not, or hold it dead, and A may refute a suspicion; whether a
 * verdict is right is the matter of members.pml. B may start knowing A, or not (behind a cut): then it settles at once.
 *
 * Checked at each step: nobody gives the name away while it holds its holder alive; B, while it waits, takes the name only
 * where its own table holds nobody present; where nobody has doubted A, and B knew of it, B never gets the name.
 */
#include "rules.h"

#ifndef OBSERVERS
#define OBSERVERS 2
#endif
#define TABLES (OBSERVERS + 1)
#define B_TABLE OBSERVERS
#define NOBODY 0
#define A 1
#define B 2
#define MOST 3

byte holder[TABLES], g[TABLES], n[TABLES], l[TABLES];   /* the settled row of the name in each table */
bool long_suspect[TABLES];
bool a_up = 1, b_up, b_pending, b_knew, doubted, b_settled;
byte a_n, b_g;                                           /* A's incarnation, B's generation */
byte t, was;

inline hear(who, hg, hn) {
    was = holder[t];
    if
    :: was == NOBODY -> holder[t] = who; g[t] = hg; n[t] = hn; l[t] = ALIVE
    :: was != NOBODY && MUST_WAIT(0, was == who, hg > g[t] || (hg == g[t] && who > was), KEEPS_NAME(l[t], long_suspect[t]))
    :: was != NOBODY && !MUST_WAIT(0, was == who, hg > g[t] || (hg == g[t] && who > was), KEEPS_NAME(l[t], long_suspect[t])) &&
            REPLACES(hg, who, hn, ALIVE, 0, g[t], was, n[t], l[t], 0) ->
        assert(was == who || l[t] != ALIVE);             /* no name is given away under a living holder */
        holder[t] = who; g[t] = hg; n[t] = hn; l[t] = ALIVE; long_suspect[t] = 0
    :: else
    fi
}

init {
    d_step {
        do
        :: t < OBSERVERS -> holder[t] = A; g[t] = 1; t++
        :: else -> break
        od;
        t = 0
    }
    do
    :: atomic {
        select(t : 0 .. TABLES - 1);
        if
        :: holder[t] == A && l[t] == ALIVE -> l[t] = SUSPECT; doubted = 1
        :: holder[t] == A && l[t] == SUSPECT -> long_suspect[t] = 1
        :: holder[t] == A && l[t] == SUSPECT -> l[t] = DEAD
        :: holder[t] == A && a_up && l[t] != ALIVE && a_n < MOST - 1 ->      /* A hears of it, and refutes */
            if
            :: REFUTES(n[t], a_n, 0) -> a_n++
            :: else
            fi
        :: a_up -> hear(A, 1, a_n)
        :: a_up -> a_up = 0
        :: t < OBSERVERS && !b_up && b_g == 0 && holder[t] == A ->           /* B asks somebody who knows A */
            b_up = 1; b_g = g[t] + 1; b_pending = (l[t] <= SUSPECT); b_knew = 1;
            holder[B_TABLE] = A; g[B_TABLE] = g[t]; n[B_TABLE] = n[t]; l[B_TABLE] = l[t]
        :: !b_up && b_g == 0 -> b_up = 1; b_g = 2                            /* or nobody does */
        :: b_up && b_pending && SETTLES(holder[B_TABLE] != NOBODY, holder[B_TABLE] == B, l[B_TABLE]) ->
            assert(holder[B_TABLE] == NOBODY || holder[B_TABLE] == B || l[B_TABLE] >= DEAD);
            b_pending = 0; b_settled = 1
        :: b_up && b_pending && a_up && holder[B_TABLE] == A -> b_up = 0     /* A says that the name is in use */
        :: b_up && !b_pending -> hear(B, b_g, 0)
        :: else
        fi;
        assert(doubted || !b_knew || !b_settled);
        t = 0; was = 0
    }
    od
}
