"""Settings: precedence, refusal by name, and secrets that never show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from dedup_storage.config import CatalogType, Settings, load_settings
from dedup_storage.connection import connect
from dedup_storage.errors import ConfigError, StorageError, UnsafeNameError
from dedup_storage.lake.iceberg.catalog import pyiceberg_properties, spark_catalog_conf
from dedup_storage.lake.stores import check_store, store_packages
from dedup_storage.reader.open.formats import open_cut

ROOT = Path(__file__).resolve().parents[2]
OWN_STORE = {"s3.endpoint": "http://store.example.com:9000"}


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "conf.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_without_file_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(None, {})
    assert any("iceberg-spark-runtime" in package for package in settings.spark.packages)
    assert settings.warehouse == "warehouse"
    assert settings.catalog.type is CatalogType.SQLITE
    assert settings.quality.enabled


@pytest.mark.parametrize("name", ["local.yaml", "cluster.yaml"])
def test_shipped_files_are_valid(name: str) -> None:
    settings = load_settings(ROOT / "conf" / name, {})
    assert settings.catalog.name == "lake"
    assert any("iceberg-spark-runtime" in package for package in settings.spark.packages)
    assert not any("org.postgresql" in package for package in settings.spark.packages)


EXAMPLES = sorted((ROOT / "conf" / "catalogs").glob("*.yaml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_of_catalogs_are_valid_and_say_whether_they_were_tried(example: Path) -> None:
    settings = load_settings(example, {})
    assert settings.docs_folder == Path("/var/lib/dedup-storage/quality").resolve()
    if settings.has_catalog:
        assert pyiceberg_properties(settings)["warehouse"] == settings.warehouse
        assert spark_catalog_conf(settings)["spark.sql.catalog.lake.warehouse"] == settings.warehouse
    if settings.names_warehouse and "://" not in settings.warehouse:
        # A name tells of no folder for rows that are passed to a cluster.
        assert settings.spark.scratch is not None
    page = (ROOT / "docs" / "how-to" / "catalogs.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| `{example.name}` |"))
    first = example.read_text(encoding="utf-8")
    assert first.startswith(("# Tried: ", "# Not tried"))
    assert first.startswith("# Not tried") == ("not tried" in row)


def test_packages_of_an_s3_store_are_added_where_the_settings_tell_of_one() -> None:
    added = {path.stem for path in EXAMPLES if store_packages(load_settings(path, {}))[0]}
    assert added == {path.stem for path in EXAMPLES} - {"gcs", "azure"}
    found, _ = store_packages(load_settings(ROOT / "conf" / "catalogs" / "rest.yaml", {}))
    assert found[:2] == ("org.apache.iceberg:iceberg-aws-bundle:1.12.0", "org.apache.hadoop:hadoop-aws:3.4.2")
    assert all(package.startswith("software.amazon.awssdk:") for package in found[2:])
    cluster = load_settings(ROOT / "conf" / "cluster.yaml", {})
    assert store_packages(cluster)[0] == found[1:]
    assert store_packages(load_settings(ROOT / "conf" / "local.yaml", {})) == ((), ())
    brings_its_own = cluster.model_copy(update={"spark": cluster.spark.model_copy(update={"packages": ()})})
    assert store_packages(brings_its_own) == ((), ())


def test_packaged_defaults_are_the_documented_ones() -> None:
    packaged = (ROOT / "dedup_storage" / "local.yaml").read_text(encoding="utf-8")
    assert packaged == (ROOT / "conf" / "local.yaml").read_text(encoding="utf-8")


def test_environment_wins_over_file(tmp_path: Path) -> None:
    path = _file(tmp_path, "warehouse: from-file\ncatalog: {name: a, type: rest, uri: http://x}\n")
    settings = load_settings(path, {"DEDUP_STORAGE_WAREHOUSE": "from-env", "DEDUP_STORAGE_CATALOG__NAME": "b"})
    assert (settings.warehouse, settings.catalog.name, settings.catalog.uri) == ("from-env", "b", "http://x")


def test_false_and_zero_survive_from_file_and_environment(tmp_path: Path) -> None:
    path = _file(tmp_path, "quality: {enabled: false}\nwrite: {conflict_retries: 0}\n")
    settings = load_settings(path, {"DEDUP_STORAGE_WRITE__POINTER_MAX_REQUESTS": "0"})
    assert settings.quality.enabled is False
    assert settings.write.conflict_retries == 0
    assert settings.write.pointer_max_requests == 0


def test_lists_and_mappings_from_the_environment() -> None:
    settings = load_settings(
        None,
        {
            "DEDUP_STORAGE_SPARK__PACKAGES": "[a:b:1, c:d:2]",
            "DEDUP_STORAGE_SPARK__CONF": "{spark.ui.enabled: 'false'}",
        },
    )
    assert settings.spark.packages == ("a:b:1", "c:d:2")
    assert settings.spark.conf == {"spark.ui.enabled": "false"}


def test_command_line_variables_are_no_settings() -> None:
    names = ("DATASET", "RUN_ID", "DEBUG", "QUIET")
    assert load_settings(None, {f"DEDUP_STORAGE_{n}": "x" for n in names}) == load_settings(None, {})


def test_the_file_that_the_environment_names_is_read_in_python_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counted for commands alone: ``connect()`` and the reader looked into another warehouse."""
    monkeypatch.setenv("DEDUP_STORAGE_CONFIG", str(_file(tmp_path, "warehouse: elsewhere\n")))
    assert load_settings().warehouse == connect().settings.warehouse == "elsewhere"
    (tmp_path / "named.yaml").write_text("warehouse: named\n", encoding="utf-8")
    assert load_settings(tmp_path / "named.yaml").warehouse == "named"
    monkeypatch.setenv("DEDUP_STORAGE_CONFIG", "")
    assert load_settings() == load_settings(None, {})
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read: .*--config or DEDUP_STORAGE_CONFIG"):
        load_settings(None, {"DEDUP_STORAGE_CONFIG": "none.yaml"})


def test_keys_of_spark_keep_their_case_in_a_variable(tmp_path: Path) -> None:
    given = {
        "DEDUP_STORAGE_SPARK__CONF__spark.sql.session.timeZone": "UTC",
        "DEDUP_STORAGE_CATALOG__PROPERTIES__S3.ENDPOINT": "https://store",
    }
    settings = load_settings(_file(tmp_path, ""), given)
    assert settings.spark.conf == {"spark.sql.session.timeZone": "UTC"}
    assert settings.catalog.properties == {"s3.endpoint": "https://store"}


@pytest.mark.parametrize(
    ("variables", "needle"),
    [
        ({"SPARK__PACKAGES": "[hunter2"}, "the variable DEDUP_STORAGE_SPARK__PACKAGES holds no YAML"),
        ({"LINEAGE__TRANSPORT": "{a: hunter2, a: 1}"}, "DEDUP_STORAGE_LINEAGE__TRANSPORT holds no YAML"),
        ({"SPARK": "hunter2", "SPARK__MASTER": "x"}, "DEDUP_STORAGE_SPARK__MASTER sets a key of spark, which another"),
    ],
)
def test_variables_that_cannot_be_read_are_refused_by_name(
    tmp_path: Path, variables: dict[str, str], needle: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(_file(tmp_path, ""), {f"DEDUP_STORAGE_{name}": value for name, value in variables.items()})
    assert needle in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "needle"),
    [
        ("warehose: x\n", "the key warehose is unknown (known keys: one of warehouse"),
        ("catalog: {nmae: x}\n", "the key catalog.nmae is unknown"),
        ("catalog: {type: excel}\n", "catalog.type"),
        ("write: {conflict_retries: -1}\n", "write.conflict_retries"),
        ("write: {conflict_retries: true}\n", "write.conflict_retries: true is a truth value and no number"),
        ("write: {pointer_max_requests: false}\n", "write.pointer_max_requests: false is a truth value"),
        ("- a\n- b\n", "is not a mapping"),
        ("catalog: [1]\n", "the section catalog"),
        ("a: b: c\n", "is not YAML, line 1"),
        ("warehouse: a\nwarehouse: b\n", "is not YAML, line 2: the key warehouse stands twice"),
        ("catalog: {name: a, name: b}\n", "line 1: the key name stands twice"),
        ("format: excel\n", "the setting format is not valid; expected iceberg or delta; got excel"),
    ],
)
def test_wrong_files_are_refused_by_name(tmp_path: Path, text: str, needle: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(_file(tmp_path, text), {})
    assert needle in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes("warehouse: \xfc\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"settings\.yaml is not written in UTF-8"):
        load_settings(file, {})


def test_unknown_variable_is_refused_by_name() -> None:
    for name, key in (("WHAREHOUSE", "wharehouse"), ("PORT_80_TCP", "port_80_tcp"), ("SPARK__CORES", r"spark\.cores")):
        with pytest.raises(ConfigError, match=f"the key {key} is unknown.*got the variable DEDUP_STORAGE_{name}"):
            load_settings(None, {f"DEDUP_STORAGE_{name}": "x", "DEDUP_STORAGE_WAREHOUSE": "lake"})


def test_missing_file_says_which(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read: No such file"):
        load_settings(tmp_path / "none.yaml", {})


def test_hostile_catalog_name_is_refused() -> None:
    with pytest.raises(UnsafeNameError):
        load_settings(None, {"DEDUP_STORAGE_CATALOG__NAME": "x; drop table y"})


@pytest.mark.parametrize("key", ["password", "token", "credential"])
def test_secrets_come_from_the_environment_alone(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(_file(tmp_path, f"catalog: {{{key}: hunter2}}\n"), {})
    assert "hunter2" not in str(caught.value)
    assert f"DEDUP_STORAGE_CATALOG__{key.upper()}" in str(caught.value)
    settings = load_settings(None, {f"DEDUP_STORAGE_CATALOG__{key.upper()}": "hunter2"})
    assert getattr(settings.catalog, key).get_secret_value() == "hunter2"
    for shown in (repr(settings), str(settings), settings.model_dump_json()):
        assert "hunter2" not in shown
    of_store = _file(tmp_path, "spark: {conf: {spark.hadoop.fs.s3a.secret.key: hunter2}}")
    assert "hunter2" not in repr(load_settings(of_store, {}))


def test_a_wrong_value_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(None, {"DEDUP_STORAGE_CATALOG__TYPE": "hunter2"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("secret", ["[hunter2]", "{hunter2", "[", "&hunter2", "true", "0123", " hunter2 "])
def test_secrets_are_taken_as_they_stand(secret: str) -> None:
    """One that began with a bracket was read as YAML; the line end of a mounted file was sent in a header."""
    jdbc = {"DEDUP_STORAGE_CATALOG__TYPE": "jdbc", "DEDUP_STORAGE_CATALOG__USER": "me"}
    lineage = {"DEDUP_STORAGE_LINEAGE__TRANSPORT": "{type: http, url: 'http://r'}"}
    names = ("CATALOG__PASSWORD", "CATALOG__PROPERTIES__s3.secret-access-key", "LINEAGE__TRANSPORT__AUTH__API_KEY")
    given = load_settings(None, {**jdbc, **lineage, **{f"DEDUP_STORAGE_{name}": f"{secret}\n" for name in names}})
    assert given.catalog.password is not None
    assert given.catalog.password.get_secret_value() == secret
    assert given.catalog.properties == {"s3.secret-access-key": secret}
    assert given.lineage.transport["auth"] == {"api_key": secret}


def test_values_of_a_receiver_have_their_types_from_the_environment_too() -> None:
    """``false`` was a text, which HTTP clients took for the name of a file of certificates."""
    names = {
        "TYPE": "http",
        "VERIFY": "false",
        "RETRY__TOTAL": "3",
        "TIMEOUT": "1.5",
        "URL": "http://r",
        "TOPIC": "007",
    }
    given = load_settings(None, {f"DEDUP_STORAGE_LINEAGE__TRANSPORT__{name}": text for name, text in names.items()})
    assert given.lineage.transport == {
        "type": "http", "verify": False, "retry": {"total": 3}, "timeout": 1.5, "url": "http://r", "topic": "007",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "needle"),
    [
        ("catalog: {uri: 'https://catalog'}", "uri is given to the embedded catalog"),
        ("catalog: {type: glue, uri: 'https://catalog'}", r"glue\.endpoint"),
        ("catalog: {type: rest, uri: 'https://catalog', user: me}", "user is given to a catalog of type rest"),
        ("catalog: {properties: {token: hunter2}}", "token is no property here; .*DEDUP_STORAGE_CATALOG__TOKEN"),
        ("catalog: {properties: {cache-enabled: 'true'}}", "cache-enabled is always false"),
        ("warehouse: ''", "warehouse: "),
        ("lineage: {transport: {type: console}, journal: ''}", r"lineage\.journal: "),
        ("warehouse: s3:/logs/lake", "warehouse is neither a path nor an address; an address begins with s3://"),
        ("warehouse: file://lake", "file:///"),
        ("quality: {docs: s3:/logs/docs}", r"quality\.docs is neither a path nor an address"),
        ("spark: {conf: {spark.sql.shuffle.partitions: 8}}", "partitions is no text; put it in quotes"),
    ],
)
def test_what_would_not_count_is_refused_by_name(tmp_path: Path, text: str, needle: str) -> None:
    """An address without a type, for one, went into an embedded catalog of the working directory."""
    with pytest.raises(ConfigError, match=needle) as caught:
        load_settings(_file(tmp_path, text), {})
    assert "hunter2" not in str(caught.value)


def test_one_setting_has_one_variable_and_a_password_its_user(tmp_path: Path) -> None:
    prefix = "DEDUP_STORAGE_CATALOG__PROPERTIES__"
    with pytest.raises(ConfigError, match=f"{prefix}S3.REGION and {prefix}s3.region set the same"):
        load_settings(_file(tmp_path, ""), {f"{prefix}S3.REGION": "a", f"{prefix}s3.region": "b"})
    with pytest.raises(ConfigError, match="password is given, and no user"):
        load_settings(
            _file(tmp_path, "catalog: {type: jdbc, uri: postgresql://h/d}"), {"DEDUP_STORAGE_CATALOG__PASSWORD": "x"}
        )


@pytest.mark.parametrize(
    "text",
    [
        "warehouse: s3://KEY:hunter2@logs/lake",
        "warehouse: s3://KEY:hun/ter2@logs/lake",
        "catalog: {type: jdbc, uri: 'postgresql://db/iceberg?user=me&password=hunter2'}",
        "catalog: {type: rest, uri: 'https://me:hunter2@catalog'}",
        "spark: {scratch: 's3a://KEY:hunter2@logs/scratch'}",
    ],
)
def test_addresses_hold_no_secret(tmp_path: Path, text: str) -> None:
    """They stand in messages, titles of tables and Spark's settings."""
    with pytest.raises(ConfigError, match="names a user or a key") as caught:
        load_settings(_file(tmp_path, text), {})
    assert "hunter2" not in str(caught.value)
    assert "hun/ter2" not in str(caught.value)


def test_addresses_that_only_look_like_a_login_are_taken(tmp_path: Path) -> None:
    for place in ("abfss://logs@account.dfs.core.windows.net/lake", "hdfs://node:8020/user/a@b/lake"):
        assert load_settings(_file(tmp_path, f"warehouse: {place}"), {}).warehouse_uri == place


def test_places_are_those_that_their_writer_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``~`` and ``file:`` were folders of the working directory; two slashes are another place in a store."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings(warehouse="~/lake").local_warehouse == tmp_path / "lake"
    for text in ("file:/data/lake", "file:///data/lake/"):
        settings = Settings(warehouse=text)
        assert (settings.warehouse_uri, settings.local_warehouse) == ("file:///data/lake", Path("/data/lake"))
        assert Settings.model_validate({"quality": {"docs": text}}).docs_folder == Path("/data/lake")
    assert Settings(warehouse="s3://logs/lake/").warehouse_uri == "s3://logs/lake"
    lineage = {"transport": {"type": "console"}, "journal": "~/runs"}
    assert Settings.model_validate({"lineage": lineage}).lineage_folder == str(tmp_path / "runs")


def test_sections_with_everything_commented_out_are_left_out(tmp_path: Path) -> None:
    settings = load_settings(_file(tmp_path, "catalog:\n  properties:\nspark:\nlineage:\n"), {})
    assert settings == Settings()
    with pytest.raises(ConfigError, match="warehouse"):
        load_settings(_file(tmp_path, "warehouse:\n"), {})


def test_settings_are_frozen() -> None:
    settings = load_settings(None, {})
    with pytest.raises(ValueError, match="frozen"):
        settings.warehouse = "elsewhere"  # type: ignore[misc]


def test_both_clients_get_one_sqlite_catalog(tmp_path: Path) -> None:
    settings = load_settings(None, {"DEDUP_STORAGE_WAREHOUSE": str(tmp_path / "w%20 #1")})
    file = str(tmp_path / "w%20 #1" / "catalog.db")
    assert make_url(pyiceberg_properties(settings)["uri"]).database == file
    assert spark_catalog_conf(settings)["spark.sql.catalog.lake.uri"].startswith(f"jdbc:sqlite:{file}?")


def test_postgresql_catalog_keeps_the_password_out_of_the_uri_spark_logs() -> None:
    settings = load_settings(
        None,
        {
            "DEDUP_STORAGE_WAREHOUSE": "s3://bucket/w",
            "DEDUP_STORAGE_CATALOG__TYPE": "jdbc",
            "DEDUP_STORAGE_CATALOG__URI": "postgresql://db:5432/iceberg",
            "DEDUP_STORAGE_CATALOG__USER": "me",
            "DEDUP_STORAGE_CATALOG__PASSWORD": "hunter2",
        },
    )
    conf = spark_catalog_conf(settings)
    assert conf["spark.sql.catalog.lake.uri"] == "jdbc:postgresql://db:5432/iceberg"
    assert pyiceberg_properties(settings)["uri"] == "postgresql+psycopg2://me:hunter2@db:5432/iceberg"


# What an address, a query, a file of settings or Spark's variables give a meaning to.
@pytest.mark.parametrize(
    "password", ["a@b", "a/b:c", "100%", "%40", "?x=1#y&z", "it's", "a b+c", "${user.name}", "ключ"]
)
def test_passwords_of_any_characters_reach_both_clients(password: str) -> None:
    user = f"role:{password}"
    settings = load_settings(
        None,
        {
            "DEDUP_STORAGE_CATALOG__TYPE": "jdbc",
            "DEDUP_STORAGE_CATALOG__URI": "postgresql://db:5432/iceberg?sslmode=require",
            "DEDUP_STORAGE_CATALOG__USER": user,
            "DEDUP_STORAGE_CATALOG__PASSWORD": password,
        },
    )
    url = make_url(pyiceberg_properties(settings)["uri"])
    assert (url.username, url.password, url.host, url.port) == (user, password, "db", 5432)
    assert (url.database, dict(url.query)) == ("iceberg", {"sslmode": "require"})
    conf = spark_catalog_conf(settings)
    assert conf["spark.sql.catalog.lake.uri"] == "jdbc:postgresql://db:5432/iceberg?sslmode=require"
    assert (conf["spark.sql.catalog.lake.jdbc.user"], conf["spark.sql.catalog.lake.jdbc.password"]) == (user, password)


def test_a_user_in_the_catalogs_address_is_refused() -> None:
    environ = {
        "DEDUP_STORAGE_CATALOG__TYPE": "jdbc",
        "DEDUP_STORAGE_CATALOG__URI": "postgresql://me:hunter2@db/iceberg",
    }
    for client in (pyiceberg_properties, spark_catalog_conf):
        with pytest.raises(ConfigError, match=r"catalog\.uri names a user") as caught:
            client(load_settings(None, environ))
        assert "hunter2" not in str(caught.value)


# A name, an address, S3 Tables' and Glue's names, and what looks like a path.
@pytest.mark.parametrize(
    "warehouse",
    ["prod", "s3://bucket/w", "arn:aws:s3tables:eu-north-1:111122223333:bucket/logs", "111122223333:cat/logs", "/prod"],
)
def test_a_rest_warehouse_goes_to_the_server_as_it_stands(warehouse: str) -> None:
    settings = load_settings(
        None,
        {
            "DEDUP_STORAGE_WAREHOUSE": warehouse,
            "DEDUP_STORAGE_CATALOG__TYPE": "rest",
            "DEDUP_STORAGE_CATALOG__URI": "https://catalog.example.com",
        },
    )
    assert pyiceberg_properties(settings)["warehouse"] == warehouse
    assert spark_catalog_conf(settings)["spark.sql.catalog.lake.warehouse"] == warehouse
    assert (settings.warehouse_uri, settings.local_warehouse) == (warehouse, None)
    with pytest.raises(ConfigError, match=r"quality\.docs is missing"):
        _ = settings.docs_folder
    # Delta's tables lie in folders, whatever catalog stands beside them.
    assert settings.model_copy(update={"format": "delta", "warehouse": "w"}).local_warehouse == Path("w").resolve()


def test_a_token_that_cannot_be_sent_is_not_shown() -> None:
    catalog = {"type": "rest", "uri": "http://127.0.0.1:9", "token": "hunter2\nand more"}
    settings = Settings.model_validate({"warehouse": "lake", "catalog": catalog})
    for opened in (lambda: connect(settings).datasets(), lambda: open_cut("clicks", settings)):
        with pytest.raises(StorageError, match="the rest catalog cannot be opened: Invalid") as caught:
            opened()
        assert "hunter2" not in str(caught.value)


def test_properties_that_nobody_here_knows_reach_both_clients() -> None:
    given = {"rest.sigv4-enabled": "true", "header.X-Tenant": "ours", "client.region": "eu-north-1"}
    environ = {"DEDUP_STORAGE_CATALOG__TYPE": "rest", "DEDUP_STORAGE_CATALOG__URI": "https://catalog.example.com"}
    settings = load_settings(None, {**environ, "DEDUP_STORAGE_CATALOG__PROPERTIES": json.dumps(given)})
    prefix = "spark.sql.catalog.lake."
    spark = {k.removeprefix(prefix): v for k, v in spark_catalog_conf(settings).items() if k.startswith(prefix)}
    for client in (pyiceberg_properties(settings), spark):
        # Each client has a name of its own for the region.
        assert {k: client[k] for k in (*given, "s3.region")} == {**given, "s3.region": "eu-north-1"}


def test_a_store_of_ones_own_without_a_region_is_refused_before_anything_is_asked() -> None:
    settings = Settings.model_validate(
        {"warehouse": "s3://b/w", "catalog": {"type": "jdbc", "uri": "postgresql://db/x", "properties": OWN_STORE}}
    )
    with pytest.raises(ConfigError, match=r"has no region.*s3\.region"):
        check_store(settings, {"AWS_CONFIG_FILE": "/nothing"})
    check_store(settings, {"AWS_REGION": "eu-north-1"})
    named = settings.catalog.model_copy(update={"properties": {**OWN_STORE, "client.region": "eu-north-1"}})
    check_store(settings.model_copy(update={"catalog": named}), {"AWS_CONFIG_FILE": "/nothing"})


def test_embedded_catalog_needs_a_local_warehouse() -> None:
    settings = load_settings(None, {"DEDUP_STORAGE_WAREHOUSE": "s3://bucket/w"})
    with pytest.raises(ConfigError, match="needs a local warehouse"):
        spark_catalog_conf(settings)
