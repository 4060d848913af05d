/* Checks decisions of the real code by the rules of the model. Each line of standard input is a decision:
 *
 *     RULE outcome argument ...
 *
 * with numbers, as trace.py writes them. Prints the decisions that the rules would have taken otherwise, and exits with 1 if
 * there is one, with 2 for a line that it cannot read. */
#include <stdio.h>
#include <string.h>

#include "rules.h"

#define MOST_ARGUMENTS 10

static int expected(const char *rule, int given, const long *a) {
    if (!strcmp(rule, "replaces") && given == 10)
        return REPLACES(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9]);
    if (!strcmp(rule, "is_weighed") && given == 3)
        return IS_WEIGHED(a[0], a[1], a[2]);
    if (!strcmp(rule, "vote_counts") && given == 7)
        return VOTE_COUNTS(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
    if (!strcmp(rule, "may_evict") && given == 5)
        return MAY_EVICT(a[0], a[1], a[2], a[3], a[4]);
    if (!strcmp(rule, "believed") && given == 1)
        return BELIEVED(a[0]);
    if (!strcmp(rule, "refutes") && given == 3)
        return REFUTES(a[0], a[1], a[2]);
    if (!strcmp(rule, "must_wait") && given == 4)
        return MUST_WAIT(a[0], a[1], a[2], a[3]);
    if (!strcmp(rule, "keeps_name") && given == 2)
        return KEEPS_NAME(a[0], a[1]);
    if (!strcmp(rule, "settles") && given == 3)
        return SETTLES(a[0], a[1], a[2]);
    return -1;
}

int main(void) {
    char line[256], rule[32];
    int wrong = 0;
    while (fgets(line, sizeof line, stdin)) {
        long a[MOST_ARGUMENTS];
        int outcome, used, step, given = 0;
        if (sscanf(line, "%31s %d%n", rule, &outcome, &used) != 2)
            return fprintf(stderr, "cannot read: %s", line), 2;
        while (given < MOST_ARGUMENTS && sscanf(line + used, "%ld%n", &a[given], &step) == 1) {
            used += step;
            given++;
        }
        int should = expected(rule, given, a);
        if (should < 0)
            return fprintf(stderr, "no such rule: %s", line), 2;
        if (should != outcome) {
            wrong = 1;
            printf("the rule says %d: %s", should, line);
        }
    }
    return wrong;
}
