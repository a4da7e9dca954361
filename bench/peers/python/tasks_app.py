"""The tasks application on FastAPI and asyncpg, with a pool of ten connections."""

import json
import os
import uuid
from contextlib import asynccontextmanager

import asyncpg
import fastapi
from pydantic import BaseModel

LIST = """SELECT json_build_object('tasks', (SELECT coalesce(json_agg(page), '[]') FROM (
  SELECT * FROM tasks ORDER BY created_at DESC, id LIMIT $2::bigint
  OFFSET ($1::bigint - 1) * $2::bigint) page),
  'total', (SELECT count(*) FROM tasks), 'page', $1::bigint, 'limit', $2::bigint) AS reply"""
GET = "SELECT * FROM tasks WHERE id = $1"
CREATE = """INSERT INTO tasks (id, title, description, completed, priority)
  VALUES ($1, $2, $3, $4, $5) RETURNING *"""


class NewTask(BaseModel):
    title: str
    description: str | None = None
    completed: bool = False
    priority: int = 0


@asynccontextmanager
async def lifespan(app: fastapi.FastAPI):
    app.state.pool = await asyncpg.create_pool(
        host=os.environ["PGHOST"],
        user=os.environ["PGUSER"],
        database=os.environ["PGDATABASE"],
        min_size=10,
        max_size=10,
    )
    yield
    await app.state.pool.close()


app = fastapi.FastAPI(lifespan=lifespan)


@app.get("/tasks")
async def list_tasks(page: int = 1, limit: int = 20):
    return json.loads(await app.state.pool.fetchval(LIST, page, limit))


@app.get("/tasks/{id}")
async def get_task(id: uuid.UUID):
    row = await app.state.pool.fetchrow(GET, id)
    if row is None:
        raise fastapi.HTTPException(404)
    return dict(row)


@app.post("/tasks", status_code=201)
async def create_task(task: NewTask):
    row = await app.state.pool.fetchrow(
        CREATE, uuid.uuid4(), task.title, task.description, task.completed, task.priority
    )
    return dict(row)
