/* The rules of merge, votes and names, each as one expression.
 *
 * Two programs read this file. Spin's model (members.pml, names.pml) explores every course that these rules allow. The
 * checker (check_trace.c) evaluates them on each decision that the real code took in a story of the lab. So the rules that
 * are explored are the rules of the code, or the checker finds the decision at which they differ.
 *
 * SABOTAGE removes one rule: the model, and the checker, must then fail.
 */

/* Numbers of the rules. 0: nothing is removed. */
#define NOTHING 0
#define LIVENESS_WORSENS 1
#define INCARNATION_FIRST 2
#define GENERATION_FIRST 3
#define TWO_VOTES 4
#define VOTE_OF_THIS_INCARNATION 5
#define VOTER_IS_ALIVE 6
#define NOT_HEARD_LATELY 7
#define DEATH_NEEDS_VOTES 8
#define SUBJECT_REFUTES 9
#define HOLDER_KEEPS_NAME 10
#define PENDING_WAITS 11

#ifndef SABOTAGE
#define SABOTAGE NOTHING
#endif

/* Liveness, in order of precedence: rumormill.membership.record.Liveness. */
#define ALIVE 0
#define SUSPECT 1
#define DEAD 2
#define LEFT 3

/* rumormill.membership.member_state.merge: whether a row that was heard replaces the one that is held. A row is a
 * generation, an instance, an incarnation, a liveness and a checksum. Instances and checksums are compared as ranks. */
#define LATER_LIFE(hg, hi, g, i) ((hg) > (g) || ((hg) == (g) && (hi) > (i)))
#define SAME_LIFE(hg, hi, g, i) ((hg) == (g) && (hi) == (i))
#if SABOTAGE == LIVENESS_WORSENS
#define BETTER_RECORD(hn, hl, hc, n, l, c) ((hn) >= (n))
#elif SABOTAGE == INCARNATION_FIRST
#define BETTER_RECORD(hn, hl, hc, n, l, c) ((hl) > (l) || ((hl) == (l) && ((hn) > (n) || ((hn) == (n) && (hc) > (c)))))
#else
#define BETTER_RECORD(hn, hl, hc, n, l, c) ((hn) > (n) || ((hn) == (n) && ((hl) > (l) || ((hl) == (l) && (hc) > (c)))))
#endif
#if SABOTAGE == GENERATION_FIRST
#define REPLACES(hg, hi, hn, hl, hc, g, i, n, l, c) (BETTER_RECORD(hn, hl, hc, n, l, c))
#else
#define REPLACES(hg, hi, hn, hl, hc, g, i, n, l, c) \
    (LATER_LIFE(hg, hi, g, i) || (SAME_LIFE(hg, hi, g, i) && BETTER_RECORD(hn, hl, hc, n, l, c)))
#endif

/* rumormill.gossip.lifecycle.membership_updates.MembershipUpdates._subject: whether a suspicion, a vote or a death against
 * incarnation vn is weighed at all by one that holds a row of incarnation n. */
#define IS_WEIGHED(vn, n, present) (VOTE_IS_CURRENT(vn, n) && (present))

/* rumormill.gossip.detection.votes.VoteBook.valid_votes: whether a vote against incarnation vn counts against a row of
 * incarnation n. own: it is the observer's. voter: the liveness of the voter here. steady: the voter was alive here ever
 * since. waiting: the voter waits for its name, and others do not. fresh: it is younger than two periods. */
#if SABOTAGE == VOTE_OF_THIS_INCARNATION
#define VOTE_IS_CURRENT(vn, n) (1)
#else
#define VOTE_IS_CURRENT(vn, n) ((vn) == (n))
#endif
#if SABOTAGE == VOTER_IS_ALIVE
#define VOTER_COUNTS(voter, steady, waiting) (1)
#else
#define VOTER_COUNTS(voter, steady, waiting) ((voter) == ALIVE && (steady) && !(waiting))
#endif
#define VOTE_COUNTS(vn, n, fresh, own, voter, steady, waiting) \
    (VOTE_IS_CURRENT(vn, n) && (fresh) && ((own) || VOTER_COUNTS(voter, steady, waiting)))

/* rumormill.gossip.lifecycle.eviction.Eviction.try_evict: whether the votes suffice for a death. votes: how many count.
 * sworn: their voters may decide. own: one is the observer's. alone: its lone vote suffices (a claim of the death stands as
 * the second, a pool of two, long isolation). heard: a sign of life within the last period. */
#if SABOTAGE == NOT_HEARD_LATELY
#define IS_SILENT(heard) (1)
#else
#define IS_SILENT(heard) (!(heard))
#endif
#if SABOTAGE == TWO_VOTES
#define ENOUGH_VOTES(votes, sworn, own, alone) ((votes) >= 1)
#else
#define ENOUGH_VOTES(votes, sworn, own, alone) (((votes) >= 2 && (sworn)) || ((votes) == 1 && (own) && (alone)))
#endif
#define MAY_EVICT(votes, sworn, own, alone, heard) (IS_SILENT(heard) && ENOUGH_VOTES(votes, sworn, own, alone))

/* rumormill.gossip.lifecycle.membership_updates.MembershipUpdates.handle_death: what a claimed death is merged as. */
#if SABOTAGE == DEATH_NEEDS_VOTES
#define BELIEVED(may_evict) (DEAD)
#else
#define BELIEVED(may_evict) (SUSPECT + (may_evict))
#endif

/* rumormill.gossip.lifecycle.refutation.Refutation.refute: whether a claim against incarnation n makes its subject, whose
 * incarnation is own, raise it. */
#if SABOTAGE == SUBJECT_REFUTES
#define REFUTES(n, own, leaving) (0)
#else
#define REFUTES(n, own, leaving) ((n) == (own) && !(leaving))
#endif

/* rumormill.gossip.lifecycle.name_conflicts.NameConflicts.blocking_holder: whether a settled life has to wait for the one
 * that is held. keeps: NameConflicts.keeps_name. */
#if SABOTAGE == HOLDER_KEEPS_NAME
#define MUST_WAIT(pending, same, later, keeps) (0)
#else
#define MUST_WAIT(pending, same, later, keeps) (!(pending) && !(same) && (later) && (keeps))
#endif
#define KEEPS_NAME(liveness, long_suspect) ((liveness) == ALIVE || ((liveness) == SUSPECT && !(long_suspect)))

/* rumormill.gossip.lifecycle.own_name.OwnName.reconcile: whether a member that waits for its name takes it. */
#if SABOTAGE == PENDING_WAITS
#define SETTLES(known, ours, liveness) (1)
#else
#define SETTLES(known, ours, liveness) (!(known) || (ours) || (liveness) >= DEAD)
#endif
