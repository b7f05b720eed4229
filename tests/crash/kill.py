"""kill -9 under load, again and again: what was acknowledged arrives, twice only within the promised window.

   kill.py [ROUNDS] [SEED]"""
import random
import sys
import time

from lab import Relay, Sink, acked, blast, check, run, say, until

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 50
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 30)
THREADS = 2
OUTCOMES = 256          # promised, and kept by each thread for itself
FLYING = 64             # deliveries that the sink has taken and whose 250 had not been read when the crash came


def rounds(dir):
    dice = random.Random(SEED)
    sink = Sink(dir, "--reject", "rcpt:451:later:3%", "--seed", str(SEED))
    relay = Relay(dir, sink.at).start()
    log = dir + "/acked"
    open(log, "w").close()
    blasts, worst, doubles, kills = [], 0, 0, 0

    def kill():
        nonlocal kills
        relay.kill()
        kills += 1

    def came_again():
        """How many came twice for each kill since the last time we looked."""
        nonlocal worst, doubles, kills
        extra = sum(n - 1 for n in sink.taken().values())
        worst = max(worst, (extra - doubles) / max(kills, 1))
        doubles, kills = extra, 0

    def load():
        size = dice.choice(["512", "4k", "4k", "4k", "20k", "300k"])
        sessions = dice.choice(["1", "4", "16", "40"])
        blasts.append(blast(relay.at, "--verify-log", log, "--time", "600s", "--size", size, "--sessions", sessions, "--rate", "3000/s"))

    load()
    check(until(lambda: acked(log)), "it begins to take mail", relay.tail())
    for i in range(ROUNDS):
        time.sleep(dice.uniform(0.02, 0.5))
        if i % 4 == 3:          # some kills hit the start itself
            kill()
            relay.start(wait=False)
            time.sleep(dice.uniform(0, 0.15))
        came_again()            # for the kills before this one
        kill()
        if not check(relay.start().p.poll() is None, "it starts again in round", i, relay.tail()):
            return
        if dice.random() < 0.3 or blasts[-1].poll() is not None:
            blasts[-1].kill()
            blasts[-1].wait()
            load()
    blasts[-1].kill()
    blasts[-1].wait()
    check(relay.drained(60), "all drains", relay.waiting(), relay.stats())
    came_again()
    promised, taken = acked(log), sink.taken()
    lost = sorted(promised - taken.keys())
    check(not lost, "lost", len(lost), lost[:5], "seed", SEED)
    check(worst <= THREADS * OUTCOMES + FLYING, "no more seconds than promised after one kill", worst, "seed", SEED)
    check(relay.stop() == 0, "it stops", relay.tail())
    relay.start()
    check(relay.waiting() == 0, "nothing is left in the spool", relay.waiting())
    check(relay.stop() == 0, "it stops again")
    sink.end()
    check(len(promised) > 20 * ROUNDS, "there was load", len(promised))
    with open(relay.log, errors="replace") as f:
        bad = [line for line in f if "spool_damage" in line or "set_aside" in line or "assert" in line or "must" in line]
    check(not bad, "no damage is reported", bad[:5], "seed", SEED)
    say("kill -9: %d kills, %d acknowledged, %d lost, %d came twice (at most %d after one kill), seed %d"
        % (ROUNDS + ROUNDS // 4, len(promised), len(lost), sum(n - 1 for n in taken.values()), worst, SEED))


run(rounds)
