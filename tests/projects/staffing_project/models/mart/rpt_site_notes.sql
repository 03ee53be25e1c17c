-- The notes are a table that neither a ref nor a source tells of; sites are a seed, named as anybody would in SQL.
select s.site_code, n.note, count(*) over () as notes
from lists.sites as s
left join outside.site_notes as n on n.site_code = s.site_code
