/* Members that suspect, vote, evict, refute, crash and restart. See rules.h.
 *
 * The network is the set of everything that was ever said. Whoever runs may hear any of it at any time, again and again,
 * or never: that is loss, delay, reordering and duplication at once. A vote never expires, so no bound on delays is
 * assumed. Bounds: N members, LIVES lives each, INCS incarnations a life, MISSES runs of missed heartbeats, CRASHES
 * (of the first members: all are alike).
 * A running member at its last incarnation is not accused: it has no further one to refute with.
 *
 * Checked at each step: a death has two voters (or one, and a claim of the death that itself had two), each alive here and
 * against exactly this incarnation; nobody is evicted who was just heard; rows never fall back; only the subject raises
 * its incarnation. From every state: when all that was said is heard, all who run agree that all who run are alive.
 */
#include "rules.h"

#ifndef N
#define N 3
#endif
#ifndef LIVES
#define LIVES 2
#endif
#ifndef INCS
#define INCS 2
#endif
#ifndef MISSES
#define MISSES 2
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#define UNKNOWN 7

#define ROW(o, s) ((o) * N + (s))
#define SAID(s, g, n) (((s) * LIVES + (g)) * INCS + (n))
#define CAST(v, s, g, n) ((v) * N * LIVES * INCS + SAID(s, g, n))

byte life[N], own[N];                  /* each member's own life and incarnation */
bool up[N];
byte g[N * N], n[N * N], l[N * N];     /* what each holds of each */
bool heard[N * N];                     /* a sign of life since the last miss */
bool claimed[N * N];                   /* a claim of the death counts as the second vote against this row */
byte last[N * LIVES];                  /* one more than the latest incarnation of each life that was announced */
bool suspected[N * LIVES * INCS], died[N * LIVES * INCS], cast[N * N * LIVES * INCS];
byte misses = MISSES, crashes = CRASHES;
byte o, s, v, hg, hn, votes, valid;    /* scratch; zero between steps */
bool counts, changed;

#define PRESENT(o, s) (l[ROW(o, s)] <= SUSPECT)
#define VOTED(v) cast[CAST(v, s, g[ROW(o, s)], n[ROW(o, s)])]

/* o hears a row of s. */
inline hear(hgen, hinc, hliv) {
    if
    :: l[ROW(o, s)] == UNKNOWN || REPLACES(hgen, 0, hinc, hliv, 0, g[ROW(o, s)], 0, n[ROW(o, s)], l[ROW(o, s)], 0) ->
        if
        :: l[ROW(o, s)] != UNKNOWN ->                           /* rows never fall back */
            assert(hgen > g[ROW(o, s)] || (hgen == g[ROW(o, s)] && (hinc > n[ROW(o, s)] ||
                (hinc == n[ROW(o, s)] && hliv > l[ROW(o, s)]))))
        :: else
        fi;
        if
        :: hgen != g[ROW(o, s)] || hinc != n[ROW(o, s)] -> claimed[ROW(o, s)] = 0
        :: else
        fi;
        g[ROW(o, s)] = hgen; n[ROW(o, s)] = hinc; l[ROW(o, s)] = hliv; changed = 1;
        assert(hgen < life[s] || hinc <= own[s])                /* only the subject raises its incarnation */
    :: else
    fi
}

/* The votes against s that count at o. */
inline count_votes() {
    votes = 0; v = 0;
    do
    :: v < N ->
        counts = 0; hn = 0;
        do
        :: hn < INCS ->
            counts = counts || (cast[CAST(v, s, g[ROW(o, s)], hn)] &&
                VOTE_COUNTS(hn, n[ROW(o, s)], 1, v == o, l[ROW(o, v)], 1, 0));
            hn++
        :: else -> break
        od;
        if
        :: v != s && counts -> votes++
        :: else
        fi;
        v++
    :: else -> break
    od;
    hn = 0; v = 0; counts = 0
}

/* s is dead at o from now on: checks what a death must rest on, not by the rules but by what was said. */
inline bury() {
    valid = 0; v = 0;
    do
    :: v < N ->
        if
        :: v != s && VOTED(v) && (v == o || l[ROW(o, v)] == ALIVE) -> valid++
        :: else
        fi;
        v++
    :: else -> break
    od;
    v = 0;
    assert(valid >= 2 || (VOTED(o) && (N == 2 || died[SAID(s, g[ROW(o, s)], n[ROW(o, s)])])));
    assert(!heard[ROW(o, s)]);
    valid = 0;
    died[SAID(s, g[ROW(o, s)], n[ROW(o, s)])] = 1;
    hear(g[ROW(o, s)], n[ROW(o, s)], DEAD)
}

#define ALONE (claimed[ROW(o, s)] || N == 2)
#define EVICTS MAY_EVICT(votes, 1, VOTED(o), ALONE, heard[ROW(o, s)])

inline take_death() {
    count_votes();
    if
    :: BELIEVED(EVICTS) == DEAD -> bury()
    :: else -> hear(g[ROW(o, s)], n[ROW(o, s)], SUSPECT); claimed[ROW(o, s)] = 1
    fi;
    votes = 0
}

/* s hears a claim against its own incarnation hn. */
inline refute() {
    if
    :: REFUTES(hn, own[s], 0) && own[s] < INCS - 1 -> own[s]++; last[s * LIVES + life[s]] = own[s] + 1; changed = 1
    :: else
    fi
}

inline restart() {
    up[s] = 1; life[s]++; own[s] = 0; last[s * LIVES + life[s]] = 1;
    v = 0;
    do
    :: v < N -> g[ROW(s, v)] = 0; n[ROW(s, v)] = 0; l[ROW(s, v)] = UNKNOWN; heard[ROW(s, v)] = 0;
        claimed[ROW(s, v)] = 0; v++
    :: else -> break
    od;
    v = 0; g[ROW(s, s)] = life[s]; l[ROW(s, s)] = ALIVE
}

/* All that was said is heard by all who run, until nothing changes. Then all of them hold all of them alive. */
inline settle() {
    changed = 1;
    do
    :: changed -> changed = 0; o = 0;
        do
        :: o < N -> s = 0;
            do
            :: s < N -> hg = 0;
                do
                :: hg < LIVES -> hn = 0;
                    do
                    :: hn < INCS -> deliver(); hn++
                    :: else -> break
                    od;
                    hg++
                :: else -> break
                od;
                s++
            :: else -> break
            od;
            o++
        :: else -> break
        od
    :: else -> break
    od;
    o = 0;
    do
    :: o < N -> s = 0;
        do
        :: s < N ->
            assert(!up[o] || !up[s] || o == s ||
                (l[ROW(o, s)] == ALIVE && g[ROW(o, s)] == life[s] && n[ROW(o, s)] == own[s]));
            s++
        :: else -> break
        od;
        o++
    :: else -> break
    od
}

/* Everything that was said of life hg, incarnation hn of s, to o. Verdicts on other rows than the one held are dropped. */
inline deliver() {
    if
    :: !up[o]
    :: up[o] && o == s && hg == life[s] ->
        if
        :: suspected[SAID(s, hg, hn)] || died[SAID(s, hg, hn)] -> refute()
        :: else
        fi
    :: up[o] && o == s && hg != life[s]
    :: up[o] && o != s ->
        if
        :: hn < last[s * LIVES + hg] -> hear(hg, hn, ALIVE)
        :: else
        fi;
        if
        :: (suspected[SAID(s, hg, hn)] || died[SAID(s, hg, hn)]) && PRESENT(o, s) && g[ROW(o, s)] == hg &&
                n[ROW(o, s)] == hn -> hear(hg, hn, SUSPECT)
        :: else
        fi
    fi
}

init {
    d_step {
        o = 0;
        do
        :: o < N -> up[o] = 1; last[o * LIVES] = 1; o++
        :: else -> break
        od;
        o = 0
    }
    do
    :: atomic {
        select(o : 0 .. N - 1); select(s : 0 .. N - 1); select(hg : 0 .. LIVES - 1); select(hn : 0 .. INCS - 1);
        if
        :: up[o] && o != s && hn < last[s * LIVES + hg] ->      /* gossip brings any record of s */
            hear(hg, hn, ALIVE)
        :: up[o] && up[s] && o != s && hg == g[ROW(o, s)] && hg == life[s] && l[ROW(o, s)] == SUSPECT && hn == 0 ->
            heard[ROW(o, s)] = 1                                /* a heartbeat of s; matters for suspects alone */
        :: up[o] && o != s && PRESENT(o, s) && hg == g[ROW(o, s)] && hn == n[ROW(o, s)] && misses > 0 &&
                (!up[s] || hn < INCS - 1 || hg != life[s]) ->     /* two misses in a row: suspect */
            misses--; heard[ROW(o, s)] = 0; suspected[SAID(s, hg, hn)] = 1; hear(hg, hn, SUSPECT)
        :: up[o] && o != s && l[ROW(o, s)] == SUSPECT && hg == g[ROW(o, s)] && hn == n[ROW(o, s)] && !heard[ROW(o, s)] &&
                suspected[SAID(s, hg, hn)] ->                /* the third: vote */
            cast[CAST(o, s, hg, hn)] = 1
        :: up[o] && o != s && suspected[SAID(s, hg, hn)] && PRESENT(o, s) && g[ROW(o, s)] == hg && n[ROW(o, s)] == hn ->
            hear(hg, hn, SUSPECT)
        :: up[o] && o != s && died[SAID(s, hg, hn)] && PRESENT(o, s) && g[ROW(o, s)] == hg && n[ROW(o, s)] == hn ->
            take_death()
        :: up[o] && o != s && PRESENT(o, s) && hg == g[ROW(o, s)] && hn == n[ROW(o, s)] ->
            count_votes();
            if
            :: EVICTS -> bury()
            :: else
            fi;
            votes = 0
        :: up[o] && o == s && hg == life[s] && (suspected[SAID(s, hg, hn)] || died[SAID(s, hg, hn)]) -> refute()
        :: up[s] && o == s && s < CRASHES && hg == 0 && hn == 0 && crashes > 0 -> crashes--; up[s] = 0
        :: !up[s] && o == s && hg == 0 && hn == 0 && life[s] < LIVES - 1 -> restart()
        :: else
        fi;
        o = 0; s = 0; hg = 0; hn = 0; changed = 0
    }
    :: d_step { settle(); o = 0; s = 0; hg = 0; hn = 0 } -> break
    od
}
