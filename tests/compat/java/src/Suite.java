import com.alicloud.openservices.tablestore.ClientConfiguration;
import com.alicloud.openservices.tablestore.SyncClient;
import com.alicloud.openservices.tablestore.TableStoreException;
import com.alicloud.openservices.tablestore.TunnelClient;
import com.alicloud.openservices.tablestore.model.*;
import com.alicloud.openservices.tablestore.model.GlobalTableTypes.*;
import com.alicloud.openservices.tablestore.model.tunnel.DescribeTunnelRequest;
import com.alicloud.openservices.tablestore.model.tunnel.ListTunnelRequest;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.concurrent.Callable;

/** The official Java SDK, unmodified: rows, batches, ranges and operations on global tables. */
public final class Suite {
    private static final long WAIT_MILLIS = 60_000;
    private static int passed;
    private static int failed;
    private static Regions regions;
    private static SyncClient first;
    private static SyncClient second;
    private static SyncClient third;

    private interface Step {
        void run() throws Exception;
    }

    public static void main(String[] arguments) throws Exception {
        regions = new Regions(arguments[0]);
        first = client(0);
        second = client(1);
        third = client(2);
        step("a row is put, updated, read and deleted", Suite::rows);
        step("conditions and filters decide", Suite::conditions);
        step("a batch of rows is written and read", Suite::batches);
        step("ranges are read both ways and in pages", Suite::ranges);
        step("versions and time to live can be changed in a global table", Suite::options);
        step("streams and tunnels are empty lists", Suite::streamsAndTunnels);
        step("a global table is made, described and unbound", Suite::globalTable);
        step("a region is bound to a global table later", Suite::bindLater);
        step("peers of a global table in column mode all write", Suite::peers);
        first.shutdown();
        second.shutdown();
        third.shutdown();
        regions.close();
        System.out.println("# pass " + passed);
        System.out.println("# fail " + failed);
        System.exit(failed == 0 ? 0 : 1);
    }

    private static void step(String name, Step step) {
        try {
            step.run();
            passed++;
            System.out.println("ok " + name);
        } catch (Throwable error) {
            failed++;
            System.out.println("not ok " + name + ": " + error);
        }
    }

    private static SyncClient client(int place) {
        ClientConfiguration options = new ClientConfiguration();
        options.setConnectionTimeoutInMillisecond(5_000);
        options.setSocketTimeoutInMillisecond(20_000);
        return new SyncClient(regions.endpoints.get(place), regions.keyId, regions.secret,
            regions.instance, options);
    }

    private static void check(boolean holds, Object shown) {
        if (!holds) {
            throw new AssertionError(String.valueOf(shown));
        }
    }

    private static void equal(Object found, Object wanted) {
        check(wanted.equals(found), "found " + found + ", wanted " + wanted);
    }

    private static void await(String what, Callable<Boolean> holds) throws Exception {
        long until = System.currentTimeMillis() + WAIT_MILLIS;
        while (!holds.call()) {
            check(System.currentTimeMillis() < until, "not in time: " + what);
            Thread.sleep(50);
        }
    }

    private static void refused(String code, Callable<?> call) throws Exception {
        try {
            call.call();
        } catch (TableStoreException error) {
            equal(error.getErrorCode(), code);
            return;
        }
        throw new AssertionError("was not refused with " + code);
    }

    private static void makeTable(String name, int versions) {
        TableMeta meta = new TableMeta(name);
        meta.addPrimaryKeyColumn("p", PrimaryKeyType.STRING);
        meta.addPrimaryKeyColumn("n", PrimaryKeyType.INTEGER);
        first.createTable(new CreateTableRequest(meta, new TableOptions(-1, versions)));
    }

    private static PrimaryKey key(String p, long n) {
        return PrimaryKeyBuilder.createPrimaryKeyBuilder()
            .addPrimaryKeyColumn("p", PrimaryKeyValue.fromString(p))
            .addPrimaryKeyColumn("n", PrimaryKeyValue.fromLong(n)).build();
    }

    private static void put(SyncClient client, String table, PrimaryKey key, long value) {
        RowPutChange change = new RowPutChange(table, key);
        change.addColumn("v", ColumnValue.fromLong(value));
        client.putRow(new PutRowRequest(change));
    }

    private static Row get(SyncClient client, String table, PrimaryKey key, int versions) {
        SingleRowQueryCriteria criteria = new SingleRowQueryCriteria(table, key);
        criteria.setMaxVersions(versions);
        return client.getRow(new GetRowRequest(criteria)).getRow();
    }

    private static Long value(SyncClient client, String table, PrimaryKey key) {
        Row row = get(client, table, key, 1);
        return row == null ? null : row.getLatestColumn("v").getValue().asLong();
    }

    private static void rows() {
        long now = System.currentTimeMillis();
        makeTable("rows", 3);
        PrimaryKey key = key("a", 1);
        RowPutChange put = new RowPutChange("rows", key);
        put.addColumn("s", ColumnValue.fromString("text"));
        put.addColumn("d", ColumnValue.fromDouble(0.5));
        put.addColumn("b", ColumnValue.fromBoolean(true));
        put.addColumn("x", ColumnValue.fromBinary(new byte[] {1, 2}));
        put.addColumn("v", ColumnValue.fromLong(7), now - 2000);
        first.putRow(new PutRowRequest(put));
        RowUpdateChange update = new RowUpdateChange("rows", key);
        update.put("v", ColumnValue.fromLong(8), now - 1000);
        update.deleteColumns("d");
        update.increment(new Column("count", ColumnValue.fromLong(3)));
        update.addReturnColumn("count");
        update.setReturnType(ReturnType.RT_AFTER_MODIFY);
        Row after = first.updateRow(new UpdateRowRequest(update)).getRow();
        equal(after.getLatestColumn("count").getValue().asLong(), 3L);
        Row row = get(first, "rows", key, 3);
        equal(row.getColumn("v").size(), 2);
        equal(row.getLatestColumn("v").getValue().asLong(), 8L);
        equal(row.getLatestColumn("s").getValue().asString(), "text");
        check(row.getColumn("d").isEmpty(), row);
        first.deleteRow(new DeleteRowRequest(new RowDeleteChange("rows", key)));
        check(get(first, "rows", key, 1) == null, "the row is deleted");
    }

    private static void conditions() throws Exception {
        PrimaryKey key = key("c", 1);
        put(first, "rows", key, 5);
        RowPutChange put = new RowPutChange("rows", key);
        put.addColumn("v", ColumnValue.fromLong(6));
        put.setCondition(new Condition(RowExistenceExpectation.EXPECT_NOT_EXIST));
        refused("OTSConditionCheckFail", () -> first.putRow(new PutRowRequest(put)));
        com.alicloud.openservices.tablestore.model.condition.SingleColumnValueCondition is =
            new com.alicloud.openservices.tablestore.model.condition.SingleColumnValueCondition("v",
                com.alicloud.openservices.tablestore.model.condition.SingleColumnValueCondition
                    .CompareOperator.EQUAL, ColumnValue.fromLong(5));
        Condition condition = new Condition(RowExistenceExpectation.EXPECT_EXIST);
        condition.setColumnCondition(is);
        put.setCondition(condition);
        first.putRow(new PutRowRequest(put));
        refused("OTSConditionCheckFail", () -> first.putRow(new PutRowRequest(put)));
        equal(value(first, "rows", key), 6L);
        SingleRowQueryCriteria criteria = new SingleRowQueryCriteria("rows", key);
        criteria.setMaxVersions(1);
        criteria.setFilter(new com.alicloud.openservices.tablestore.model.filter
            .SingleColumnValueFilter("v", com.alicloud.openservices.tablestore.model.filter
                .SingleColumnValueFilter.CompareOperator.GREATER_THAN, ColumnValue.fromLong(6)));
        check(first.getRow(new GetRowRequest(criteria)).getRow() == null, "the filter hides it");
    }

    private static void batches() {
        BatchWriteRowRequest write = new BatchWriteRowRequest();
        for (long n = 0; n < 20; n++) {
            RowPutChange change = new RowPutChange("rows", key("batch", n));
            change.addColumn("v", ColumnValue.fromLong(n));
            write.addRowChange(change);
        }
        BatchWriteRowResponse written = first.batchWriteRow(write);
        check(written.isAllSucceed(), written.getFailedRows());
        MultiRowQueryCriteria criteria = new MultiRowQueryCriteria("rows");
        criteria.setMaxVersions(1);
        for (long n = 0; n < 25; n++) {
            criteria.addRow(key("batch", n));
        }
        BatchGetRowRequest read = new BatchGetRowRequest();
        read.addMultiRowQueryCriteria(criteria);
        List<BatchGetRowResponse.RowResult> found =
            first.batchGetRow(read).getBatchGetRowResult("rows");
        equal(found.size(), 25);
        equal(found.stream().filter(one -> one.getRow() != null).count(), 20L);
    }

    private static void ranges() {
        equal(range(first, "rows", "batch", Direction.FORWARD), List.of(0L, 1L, 2L, 3L, 4L));
        equal(range(first, "rows", "batch", Direction.BACKWARD), List.of(19L, 18L, 17L, 16L, 15L));
        RangeIteratorParameter all = new RangeIteratorParameter("rows");
        all.setInclusiveStartPrimaryKey(bound("batch", PrimaryKeyValue.INF_MIN));
        all.setExclusiveEndPrimaryKey(bound("batch", PrimaryKeyValue.INF_MAX));
        all.setMaxVersions(1);
        Iterator<Row> rows = first.createRangeIterator(all);
        int count = 0;
        while (rows.hasNext()) {
            rows.next();
            count++;
        }
        equal(count, 20);
    }

    private static PrimaryKey bound(String p, PrimaryKeyValue n) {
        return PrimaryKeyBuilder.createPrimaryKeyBuilder()
            .addPrimaryKeyColumn("p", PrimaryKeyValue.fromString(p))
            .addPrimaryKeyColumn("n", n).build();
    }

    private static List<Long> range(SyncClient client, String table, String p, Direction way) {
        RangeRowQueryCriteria criteria = new RangeRowQueryCriteria(table);
        boolean forward = way == Direction.FORWARD;
        PrimaryKey low = bound(p, PrimaryKeyValue.INF_MIN);
        PrimaryKey high = bound(p, PrimaryKeyValue.INF_MAX);
        criteria.setInclusiveStartPrimaryKey(forward ? low : high);
        criteria.setExclusiveEndPrimaryKey(forward ? high : low);
        criteria.setDirection(way);
        criteria.setMaxVersions(1);
        criteria.setLimit(5);
        List<Long> found = new ArrayList<>();
        for (Row row : client.getRange(new GetRangeRequest(criteria)).getRows()) {
            found.add(row.getLatestColumn("v").getValue().asLong());
        }
        return found;
    }

    private static String makeGlobal(String table, boolean peers, SyncMode sync) throws Exception {
        BaseTable base = new BaseTable(regions.names.get(0), regions.instance, table);
        CreateGlobalTableRequest create = new CreateGlobalTableRequest(base, sync);
        create.addPlacement(new Placement(regions.names.get(1), regions.instance, peers));
        create.setServeMode(peers ? ServeMode.PEER_TO_PEER : ServeMode.PRIMARY_SECONDARY);
        CreateGlobalTableResponse made = first.createGlobalTable(create);
        equal(made.getStatus(), GlobalTableStatus.RE_CONF);
        awaitActive(made.getGlobalTableId(), table);
        return made.getGlobalTableId();
    }

    private static DescribeGlobalTableResponse describe(SyncClient client, String id,
            String table) {
        DescribeGlobalTableRequest request = new DescribeGlobalTableRequest(id, table);
        request.setReturnRpo(true);
        return client.describeGlobalTable(request);
    }

    private static void awaitActive(String id, String table) throws Exception {
        await("global table is active",
            () -> describe(first, id, table).getStatus() == GlobalTableStatus.ACTIVE);
    }

    private static PhyTable replica(String id, String table, int place) {
        return describe(second, id, table).getPhyTables().stream()
            .filter(one -> one.getRegionId().equals(regions.names.get(place)))
            .findFirst().orElseThrow();
    }

    /** The public service allows neither for a global table. */
    private static void options() throws Exception {
        makeTable("versions", 3);
        put(first, "versions", key("before", 1), 1);
        makeGlobal("versions", false, SyncMode.ROW);
        RowPutChange change = new RowPutChange("versions", key("a", 1));
        change.addColumn("v", ColumnValue.fromLong(1), System.currentTimeMillis() - 2000);
        change.addColumn("v", ColumnValue.fromLong(2), System.currentTimeMillis() - 1000);
        first.putRow(new PutRowRequest(change));
        await("both versions are in the other region", () -> {
            Row row = get(second, "versions", key("a", 1), 3);
            return row != null && row.getColumn("v").size() == 2;
        });
        UpdateTableRequest update = new UpdateTableRequest("versions");
        update.setTableOptionsForUpdate(new TableOptions(86_400 * 30, 5));
        first.updateTable(update);
        await("the options are in the other region", () -> {
            TableOptions options =
                second.describeTable(new DescribeTableRequest("versions")).getTableOptions();
            return options.getMaxVersions() == 5 && options.getTimeToLive() == 86_400 * 30;
        });
    }

    private static void streamsAndTunnels() throws Exception {
        String table = "noStreams";
        makeTable(table, 1);
        equal(first.listStream(new ListStreamRequest(table)).getStreams().size(), 0);
        TunnelClient tunnels = new TunnelClient(
            regions.endpoints.get(0), regions.keyId, regions.secret, regions.instance);
        try {
            equal(tunnels.listTunnel(new ListTunnelRequest(table)).getTunnelInfos().size(), 0);
            refused("OTSParameterInvalid",
                () -> tunnels.describeTunnel(new DescribeTunnelRequest(table, "none")));
        } finally {
            tunnels.shutdown();
        }
    }

    private static void globalTable() throws Exception {
        makeTable("orders", 1);
        String id = makeGlobal("orders", false, SyncMode.ROW);
        put(first, "orders", key("a", 1), 1);
        refused("OTSNoPermissionAccess", () -> {
            put(second, "orders", key("a", 2), 1);
            return null;
        });
        await("the row is in the other region",
            () -> Long.valueOf(1).equals(value(second, "orders", key("a", 1))));
        equal(replica(id, "orders", 0).getRole(), "primary");
        check(replica(id, "orders", 1).getRpo() != null, "the rpo is told");

        // The writing region changes in one step, in whichever order the two calls come.
        update(id, "orders", 1, true, true);
        update(id, "orders", 0, false, null);
        equal(replica(id, "orders", 1).getRole(), "primary");
        put(second, "orders", key("a", 2), 1);
        put(first, "orders", key("a", 3), 3);
        update(id, "orders", 1, false, null);
        update(id, "orders", 0, true, true);
        equal(replica(id, "orders", 0).getRole(), "primary");
        put(first, "orders", key("a", 4), 4);

        UnbindGlobalTableRequest unbind = new UnbindGlobalTableRequest(id, "orders");
        unbind.addRemoval(new Removal(regions.names.get(1), regions.instance));
        first.unbindGlobalTable(unbind);
        await("the second region is out",
            () -> second.describeTable(new DescribeTableRequest("orders")) != null
                && writes(second, "orders"));
    }

    private static void bindLater() throws Exception {
        makeTable("later", 1);
        String id = makeGlobal("later", false, SyncMode.ROW);
        put(first, "later", key("a", 1), 1);
        BindGlobalTableRequest bind = new BindGlobalTableRequest(id, "later");
        bind.addPlacement(new Placement(regions.names.get(2), regions.instance, false));
        first.bindGlobalTable(bind);
        await("the row is in the region that was bound", () -> isThere("later", key("a", 1)));
        awaitActive(id, "later");
        equal(replica(id, "later", 2).getRole(), "secondary");
    }

    /** Whether the third region has the row; before the table is made there it is refused. */
    private static boolean isThere(String table, PrimaryKey key) {
        try {
            return value(third, table, key) != null;
        } catch (TableStoreException refused) {
            return false;
        }
    }

    private static boolean writes(SyncClient client, String table) {
        try {
            put(client, table, key("own", 1), 1);
            return true;
        } catch (TableStoreException refused) {
            return false;
        }
    }

    private static void update(String id, String table, int place, Boolean writable,
            Boolean eligible) {
        UpdatePhyTable change =
            new UpdatePhyTable(regions.names.get(place), regions.instance, table);
        change.setWritable(writable);
        if (eligible != null) {
            change.setPrimaryEligible(eligible);
        }
        first.updateGlobalTable(new UpdateGlobalTableRequest(id, table, change));
    }

    private static void peers() throws Exception {
        makeTable("peers", 1);
        String id = makeGlobal("peers", true, SyncMode.COLUMN);
        put(first, "peers", key("a", 1), 1);
        put(second, "peers", key("a", 2), 2);
        await("both rows are in both regions", () ->
            Long.valueOf(2).equals(value(first, "peers", key("a", 2)))
                && Long.valueOf(1).equals(value(second, "peers", key("a", 1))));
        update(id, "peers", 1, false, null);
        await("the second region has heard of it", () -> !writes(second, "peers"));
        refused("OTSNoPermissionAccess", () -> {
            put(second, "peers", key("a", 3), 3);
            return null;
        });
        update(id, "peers", 1, true, null);
        await("the second region writes again", () -> writes(second, "peers"));
        // A placement elsewhere is refused: there is no such region.
        BindGlobalTableRequest bind = new BindGlobalTableRequest(id, "peers");
        bind.addPlacement(new Placement("nowhere", regions.instance, true));
        refused("OTSParameterInvalid", () -> first.bindGlobalTable(bind));
    }
}
