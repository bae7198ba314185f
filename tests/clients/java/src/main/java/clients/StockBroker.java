package clients;

import java.lang.reflect.Method;

/**
 * A stock name server and a stock broker in one JVM: their jars are on the class path instead of the client's alone. Arguments: the
 * configuration file of the name server, that of the broker. SIGTERM ends both as their own scripts do.
 */
public final class StockBroker {
    private StockBroker() {
    }

    public static void main(String[] args) throws Exception {
        run("org.apache.rocketmq.namesrv.NamesrvStartup", args[0]);
        run("org.apache.rocketmq.broker.BrokerStartup", args[1]);
    }

    private static void run(String program, String configuration) throws Exception {
        Method main = Class.forName(program).getMethod("main", String[].class);
        main.invoke(null, (Object) new String[] {"-c", configuration});
    }
}
