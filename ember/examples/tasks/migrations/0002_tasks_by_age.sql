-- Lists are told from the newest on; the id makes their order unambiguous.
CREATE INDEX tasks_by_age ON tasks (created_at DESC, id);
