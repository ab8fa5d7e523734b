import com.google.gson.Gson;
import com.google.gson.JsonObject;
import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.ServerSocket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.List;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;

/** Three regions started by {@code isthmus up}; they end with this program. */
final class Regions implements AutoCloseable {
    final String instance;
    final String keyId;
    final String secret;
    final List<String> names;
    final List<String> endpoints;
    private final Process process;
    private final Path folder;

    Regions(String program) throws IOException {
        folder = Files.createTempDirectory("isthmus-java-");
        ProcessBuilder builder = new ProcessBuilder(program, "up", "--json", "--regions", "3",
            "--base-port", String.valueOf(freePorts()),
            "--data", folder.resolve("data").toString());
        builder.redirectError(folder.resolve("log.txt").toFile());
        process = builder.start();
        Runtime.getRuntime().addShutdownHook(new Thread(this::close));
        BufferedReader out = new BufferedReader(
            new InputStreamReader(process.getInputStream(), StandardCharsets.UTF_8));
        JsonObject told = new Gson().fromJson(out.readLine(), JsonObject.class);
        instance = told.get("instance").getAsString();
        keyId = told.get("access_key_id").getAsString();
        secret = told.get("access_key_secret").getAsString();
        names = values(told, "name");
        endpoints = values(told, "endpoint");
    }

    private static List<String> values(JsonObject told, String field) {
        Stream<JsonObject> regions = Stream.of(
            new Gson().fromJson(told.get("regions"), JsonObject[].class));
        return regions.map(region -> region.get(field).getAsString()).toList();
    }

    /** The base of a block of ports that are free now. */
    private static int freePorts() throws IOException {
        Random chance = new Random();
        for (int turn = 0; turn < 200; turn++) {
            int base = 11000 + 100 * chance.nextInt(200);
            if (Stream.iterate(base, port -> port + 1).limit(40).allMatch(Regions::isFree)) {
                return base;
            }
        }
        throw new IOException("no block of free ports");
    }

    private static boolean isFree(int port) {
        try (ServerSocket socket = new ServerSocket(port)) {
            return socket.isBound();
        } catch (IOException taken) {
            return false;
        }
    }

    @Override
    public void close() {
        if (!Files.exists(folder)) {
            return;
        }
        process.destroy();
        try {
            if (!process.waitFor(20, TimeUnit.SECONDS)) {
                process.destroyForcibly().waitFor();
            }
            try (Stream<Path> files = Files.walk(folder)) {
                files.sorted(Comparator.reverseOrder()).map(Path::toFile).forEach(File::delete);
            }
        } catch (IOException | InterruptedException ended) {
            System.err.println("left in " + folder + ": " + ended);
        }
    }
}
