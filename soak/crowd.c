#include "crowd.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"

/* The behaviours of the seats, in order; after the last the list begins again. */
static const enum behaviour order[FEWEST_SEATS] = {
    POLITE, FLOODING, POLITE, STUCK,   DESCRIPTORS, POLITE,  HOSTILE,     SLOW,   POLITE, THREADS,
    POLITE, HOSTILE,  SLOW,   POLITE,  KILLED,      HOSTILE, DESCRIPTORS, POLITE, DISMISSED, FLOODING,
};

/* A client that is to be killed lives no longer than this. */
#define LIFE_MILLISECONDS 400

struct place {
    pid_t process;
    enum behaviour behaviour;
    uint64_t taken; /* how many clients have had this seat */
    uint64_t seed;  /* of the client that has it now */
    uint64_t kill_at;
};

static struct place *places;
static int seat_count, present;
static uint64_t sessions, run_seed;
static void (*leave_driver) (void);

void
crowd_begin (int seats, uint64_t seed, void (*leave) (void))
{
    seat_count = seats;
    run_seed = seed;
    leave_driver = leave;
    places = calloc ((size_t) seats, sizeof places[0]);
    if (places == NULL) {
        give_up ("memory");
    }
}

static void
take_seat (int seat, enum behaviour behaviour)
{
    struct place *place = &places[seat];
    struct dice dice = {run_seed + ((uint64_t) seat << 32) + place->taken};

    place->behaviour = behaviour;
    place->seed = dice_roll (&dice);
    place->kill_at = 0;
    SET (shared->seats[seat].connected, false);
    place->process = fork ();
    if (place->process == -1) {
        place->process = 0;
        give_up ("fork");
    }
    if (place->process == 0) {
        prctl (PR_SET_PDEATHSIG, SIGKILL);
        signal (SIGINT, SIG_IGN);
        signal (SIGTERM, SIG_DFL);
        leave_driver ();
        client_run (behaviour, seat, place->seed);
        exit (EXIT_SUCCESS);
    }
    place->taken++;
    present++;
    sessions++;
}

static void
has_ended (struct place *place, int status)
{
    bool is_killed = WIFSIGNALED (status) && WTERMSIG (status) == SIGKILL && place->kill_at != 0;
    int seat = (int) (place - places);

    place->process = 0;
    present--;
    if (is_killed || (WIFEXITED (status) && WEXITSTATUS (status) == EXIT_SUCCESS)) {
        return;
    }
    if (WIFSIGNALED (status) && WTERMSIG (status) == SIGALRM) {
        broken (HUNG, "the %s client of seat %d, seed %llu, has waited %d s for one thing",
                behaviour_names[place->behaviour], seat, (unsigned long long) place->seed, LIMIT_SECONDS);
    } else {
        broken (HUNG, "the %s client of seat %d, seed %llu, has ended with wait status %#x",
                behaviour_names[place->behaviour], seat, (unsigned long long) place->seed, (unsigned) status);
    }
}

static bool
see_to_those_who_have_ended (pid_t server)
{
    for (;;) {
        int status;
        pid_t process = waitpid (-1, &status, WNOHANG);

        if (process <= 0) {
            return true;
        }
        if (process == server) {
            broken (HUNG, "the server has ended before its time, with wait status %#x", (unsigned) status);
            return false;
        }
        for (int seat = 0; seat < seat_count; seat++) {
            if (places[seat].process == process) {
                has_ended (&places[seat], status);
            }
        }
    }
}

static void
kill_those_whose_time_has_come (void)
{
    for (int seat = 0; seat < seat_count; seat++) {
        struct place *place = &places[seat];

        if (place->process == 0 || place->behaviour != KILLED || ! GET (shared->seats[seat].connected)) {
            continue;
        }
        if (place->kill_at == 0) {
            place->kill_at = now () + place->seed % LIFE_MILLISECONDS * 1000000;
        } else if (place->kill_at <= now ()) {
            kill (place->process, SIGKILL);
        }
    }
}

bool
crowd_step (pid_t server, uint64_t most)
{
    if (! see_to_those_who_have_ended (server)) {
        return false;
    }
    kill_those_whose_time_has_come ();
    for (int seat = 0; seat < seat_count; seat++) {
        if (places[seat].process == 0 && places[seat].taken < most) {
            take_seat (seat, order[seat % FEWEST_SEATS]);
        }
    }
    return true;
}

void
crowd_warm (pid_t server)
{
    for (int seat = 0; seat < seat_count; seat++) {
        take_seat (seat, WARMING);
        places[seat].taken = 0;
    }
    AWAIT (GET (shared->server.connections) == (uint64_t) seat_count);
    SET (shared->warm, true);
    AWAIT (! see_to_those_who_have_ended (server) || present == 0);
    sessions = 0;
}

int
crowd_size (void)
{
    return present;
}

uint64_t
crowd_sessions (void)
{
    return sessions;
}

void
crowd_end (void)
{
    for (int seat = 0; seat < seat_count; seat++) {
        if (places[seat].process != 0) {
            kill (places[seat].process, SIGKILL);
            waitpid (places[seat].process, NULL, 0);
            places[seat].process = 0;
        }
    }
    present = 0;
    free (places);
    places = NULL;
}
