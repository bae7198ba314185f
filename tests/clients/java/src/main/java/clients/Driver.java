package clients;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/**
 * Plays scenarios against a broker with the client on the class path. Arguments: name server address, prefix of all topics and
 * groups. Each line on standard input starts one scenario, beside those that still run; the answer is one JSON line on standard
 * output: {"scenario":…,"ok":…,"ms":…,"note":…}. The program ends when the input has ended and all scenarios have answered.
 */
public final class Driver {
    interface Scenario {
        /** Returns a note for the log; throws when what it promises does not hold. */
        String play(Lab lab) throws Exception;
    }

    private static final Map<String, Scenario> SCENARIOS = new LinkedHashMap<>();

    static {
        SCENARIOS.put("send_sync", Sending::sync);
        SCENARIOS.put("send_async", Sending::async);
        SCENARIOS.put("send_oneway", Sending::oneway);
        SCENARIOS.put("send_batch", Sending::batch);
        SCENARIOS.put("send_largest_body", Sending::largestBody);
        SCENARIOS.put("refusals", Sending::refusals);
        SCENARIOS.put("queries", Querying::offsetsKeysAndIds);
        SCENARIOS.put("push_group", Receiving::groupSharesQueues);
        SCENARIOS.put("push_tags", Receiving::tagFilter);
        SCENARIOS.put("push_wakes", Receiving::heldPullWakes);
        SCENARIOS.put("broadcasting", Receiving::broadcasting);
        SCENARIOS.put("orderly", Receiving::orderly);
        SCENARIOS.put("lite_assign", Pulling::assignAndSeek);
        SCENARIOS.put("lite_subscribe", Pulling::subscribeAndCommit);
        SCENARIOS.put("retry", Retrying::laterThenDeadLetter);
        SCENARIOS.put("delay", Retrying::delayLevel);
        SCENARIOS.put("before_restart", Restarting::before);
        SCENARIOS.put("after_restart", Restarting::after);
        SCENARIOS.put("damaged_write", PastDamage::write);
        SCENARIOS.put("damaged_read", PastDamage::read);
        SCENARIOS.put("moving_write", Moving::write);
        SCENARIOS.put("moving_half", Moving::half);
        SCENARIOS.put("moving_remember", Moving::remember);
        SCENARIOS.put("moving_read", Moving::read);
        SCENARIOS.put("moving_read_after_kill", Moving::readAfterKill);
        SCENARIOS.put("moving_half_checked", Moving::halfChecked);
    }

    private Driver() {
    }

    public static void main(String[] args) throws Exception {
        if (args.length != 2) {
            System.err.println("usage: clients.Driver NAMESRV PREFIX; scenarios: " + SCENARIOS.keySet());
            System.exit(2);
        }
        Lab lab = new Lab(args[0], args[1]);
        ExecutorService threads = Executors.newCachedThreadPool();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String name = line.trim();
            threads.execute(() -> answer(lab, name));
        }
        threads.shutdown();
        while (!threads.awaitTermination(1, java.util.concurrent.TimeUnit.HOURS)) {
            Thread.onSpinWait();
        }
        lab.close();
        System.exit(0);
    }

    private static void answer(Lab lab, String name) {
        long start = System.nanoTime();
        boolean ok = false;
        String note;
        try {
            Scenario scenario = SCENARIOS.get(name);
            if (scenario == null) {
                throw new IllegalArgumentException("no such scenario; known: " + SCENARIOS.keySet());
            }
            note = scenario.play(lab);
            ok = true;
        } catch (Throwable failure) {
            StringWriter trace = new StringWriter();
            failure.printStackTrace(new PrintWriter(trace));
            note = trace.toString();
        }
        long ms = (System.nanoTime() - start) / 1_000_000;
        String json = "{\"scenario\":" + quoted(name) + ",\"ok\":" + ok + ",\"ms\":" + ms + ",\"note\":" + quoted(note) + "}";
        synchronized (System.out) {
            System.out.println(json);
            System.out.flush();
        }
    }

    private static String quoted(String text) {
        StringBuilder out = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') {
                out.append('\\').append(c);
            } else if (c < ' ' || c > '~') {
                out.append(String.format("\\u%04x", (int) c));
            } else {
                out.append(c);
            }
        }
        return out.append('"').toString();
    }
}
