-- trace_points for Spark, whose unnest is another: one row a (run, sample, source, epoch). Its other views are made from
-- lists of files, see store/spark/views.py.
select experiment, run, sample_id, source, member, cast(epoch as bigint) as epoch,
       try_element_at(loss, epoch + 1) as loss,
       try_element_at(grad_norm, epoch + 1) as grad_norm,
       try_element_at(margin, epoch + 1) as margin
from (
  select *, greatest(coalesce(size(loss), 0), coalesce(size(grad_norm), 0), coalesce(size(margin), 0)) as epochs
  from traces
) as counted
lateral view explode(if(epochs > 0, sequence(0, epochs - 1), array())) as epoch
