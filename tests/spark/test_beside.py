"""Work beside a block is told of by its result, and has ended when the block is left."""

from __future__ import annotations

import threading

import pytest
from pyspark.sql import SparkSession

from dedup_storage.spark.beside import beside


def test_a_block_gets_the_result_or_the_error_of_the_work_beside_it(spark: SparkSession) -> None:
    """Its jobs are of the caller's group: whoever cancels that cancels them too."""
    context, here = spark.sparkContext, threading.current_thread()
    context.setLocalProperty("spark.jobGroup.id", "of the caller")
    try:
        with beside(spark, lambda: (threading.current_thread(), context.getLocalProperty("spark.jobGroup.id"))) as told:
            there, group = told()
    finally:
        context.setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]
    assert there is not here
    assert group == "of the caller"
    with beside(spark, lambda: 1 // 0) as failed, pytest.raises(ZeroDivisionError):
        failed()
    with beside(spark, lambda: 1 // 0):
        pass


def test_work_has_ended_when_a_block_that_fails_is_left(spark: SparkSession) -> None:
    failed, ended = threading.Event(), threading.Event()

    def work() -> None:
        assert failed.wait(10)
        ended.set()

    def fail() -> None:
        failed.set()
        raise KeyError

    with pytest.raises(KeyError), beside(spark, work):
        fail()
    assert ended.is_set()
