package machine_test
import ("testing";"fmt";"tandem/machine/event")
func TestDbg(t *testing.T){
 p:=assemble(t,"coherent","-DLEVELS=3"); m:=p.start(t,1); apply(t,m,tick)
 for i:=1;i<200;i++{ m.Run(event.Step(i)); fmt.Println(m.Describe()) }
 fmt.Printf("%x\n",p.symbols["handler"])
}
