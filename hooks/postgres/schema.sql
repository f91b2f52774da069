-- What `mode=undo` keeps in the database. Made by the hook before the first checkpoint, and again after any change of it.
CREATE SCHEMA IF NOT EXISTS ckptrun;

-- Who declares which tables. epoch: of the run that wrote last; an older one is refused.
CREATE TABLE IF NOT EXISTS ckptrun.lineages (
  lineage text PRIMARY KEY,
  epoch bigint NOT NULL,
  run text NOT NULL,
  tables oid[] NOT NULL,
  role text,
  application text,
  seen timestamptz NOT NULL DEFAULT now()
);

-- Where the history stood at a checkpoint: entries with a higher seq came after it.
CREATE TABLE IF NOT EXISTS ckptrun.positions (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  lineage text NOT NULL REFERENCES ckptrun.lineages ON DELETE CASCADE,
  checkpoint text NOT NULL,
  seq bigint NOT NULL,
  tables oid[] NOT NULL,
  taken timestamptz NOT NULL DEFAULT now(),
  UNIQUE (lineage, checkpoint)
);

-- Every change of a declared table, as its rows were before and after. settled: when a restore dealt with it;
-- outcome: 'undone', or 'kept' where another had changed the row since.
CREATE TABLE IF NOT EXISTS ckptrun.history (
  seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  relation oid NOT NULL,
  op "char" NOT NULL,
  old text,
  new text,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  role text NOT NULL DEFAULT session_user,
  application text NOT NULL DEFAULT current_setting('application_name'),
  settled timestamptz,
  outcome text
);
CREATE INDEX IF NOT EXISTS history_relation ON ckptrun.history (relation, seq);

-- Rows are kept as text, written and read under the same settings (of this function, and of the hook's transaction).
-- It runs as its owner: those who write to the tables need no right to the history.
CREATE OR REPLACE FUNCTION ckptrun.note() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres' SET timezone = 'UTC'
SET extra_float_digits = 1 SET bytea_output = 'hex' SET lc_monetary = 'C'
AS $$
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    EXECUTE format('INSERT INTO ckptrun.history (relation, op, old) SELECT $1, ''D'', (r.*)::text FROM ONLY %I.%I AS r',
                   TG_TABLE_SCHEMA, TG_TABLE_NAME) USING TG_RELID;
  ELSIF TG_OP = 'INSERT' THEN
    INSERT INTO ckptrun.history (relation, op, new) VALUES (TG_RELID, 'I', NEW::text);
  ELSIF TG_OP = 'UPDATE' THEN
    INSERT INTO ckptrun.history (relation, op, old, new) VALUES (TG_RELID, 'U', OLD::text, NEW::text);
  ELSE
    INSERT INTO ckptrun.history (relation, op, old) VALUES (TG_RELID, 'D', OLD::text);
  END IF;
  RETURN NULL;
END $$;
